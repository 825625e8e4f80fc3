"""`python -m harness`."""

import sys

# Python puts the current folder first, where a `random.py` would hide its own module. `main` puts
# it last, as it does for the command `harness`.
if __name__ == "__main__" and not sys.flags.safe_path:
    del sys.path[0]

from harness.cli import main

if __name__ == "__main__":
    main()
