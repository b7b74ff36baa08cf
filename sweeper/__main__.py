"""The command line, as ``sweeper`` and as ``python -m sweeper``."""

import os
import sys
from pathlib import Path

import sweeper


def main() -> None:
    """Run the command line; files in the working directory take no library's place.

    Python looks for modules there first with ``-m``, and where ``PYTHONPATH`` has an empty part.
    Jobs inherit the path, and the order of GPUs: CUDA counts them by speed unless it is told to
    count as the driver does, which is asked for their memory and their names.
    """
    os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
    named = (part for part in os.environ.get("PYTHONPATH", "").split(os.pathsep) if part)
    kept = {Path(part).resolve() for part in named} | {Path(sweeper.__file__).parents[1]}
    here = Path.cwd()
    sys.path[:] = [part for part in sys.path if Path(part).resolve() != here or here in kept]

    from sweeper import cli

    cli.main()


if __name__ == "__main__":
    main()
