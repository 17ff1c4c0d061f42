"""``python -m simmim_pl.workspace``: a W&B dashboard's layout from YAML."""

from simmim_pl.command.workspace import main

if __name__ == "__main__":
    main()
