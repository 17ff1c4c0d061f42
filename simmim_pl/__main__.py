"""``python -m simmim_pl {fit,validate,test,predict} --config …``."""

import sys

from simmim_pl.command import say_once

try:
    from simmim_pl.command.cli import main
except Warning as warning:  # of some package that is imported
    print(f"error: {say_once.describe_warning(warning)}", file=sys.stderr)
    sys.exit(2)

if __name__ == "__main__":
    main()
