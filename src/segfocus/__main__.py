"""`python -m segfocus` is `segfocus`."""

import sys

from segfocus.cli import main

if __name__ == "__main__":
    sys.exit(main())
