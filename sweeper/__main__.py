"""Run the command line as ``python -m sweeper``."""

import sys
from pathlib import Path

import sweeper

if __name__ == "__main__":
    # The working directory, which may hold a file of a library's name; jobs inherit the path.
    if not sys.flags.safe_path and Path(sys.path[0]).resolve() != Path(sweeper.__file__).parents[1]:
        del sys.path[0]

    from sweeper.cli import main

    main()
