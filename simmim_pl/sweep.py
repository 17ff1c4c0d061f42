"""``python -m simmim_pl.sweep``: the grid of a W&B sweep, run here."""

from simmim_pl.command.sweep import main

if __name__ == "__main__":
    main()
