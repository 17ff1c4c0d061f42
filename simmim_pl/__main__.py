"""``python -m simmim_pl {fit,validate,test,predict} --config …``."""

from simmim_pl.cli import main

if __name__ == "__main__":
    main()
