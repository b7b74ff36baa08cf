"""``python -m benchmarks.gpu``; see the package."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from benchmarks.gpu import __doc__ as about
from benchmarks.gpu.needs import TO_MEASURE, TO_TEST, missing


def main() -> int:
    """Read the arguments, and do what they ask for.

    Returns:
        The exit code: 0; 1 if a test failed, or nothing could be measured, or a turn failed for
        another reason than memory; 2 if the command cannot run here.
    """
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu",
        description=about,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", type=Path, help="where to write the figures, after every turn")
    parser.add_argument("--seconds", type=float, default=540, help="time for all of it")
    parser.add_argument("--device", choices=["auto", "cuda", "cpu"], default="auto")
    parser.add_argument("--shapes", choices=["full", "tiny"], help="full on a GPU, else tiny")
    parser.add_argument("--rounds", type=int, default=2, help="how often engines take turns")
    parser.add_argument("--steps", type=int, default=2, help="counted steps of a training")
    parser.add_argument("--rows", nargs="+", help="names of the rows to measure")
    parser.add_argument("--pairs", nargs="+", help="names of the pairs to measure")
    parser.add_argument(
        "--profile", action="store_true", help="write what one more step of ours goes to"
    )
    parser.add_argument("--skip-tests", action="store_true", help="measure at once")
    parser.add_argument("--table", type=Path, help="print the tables of such a file, as markdown")
    parser.add_argument(
        "--check", action="store_true", help="only say which libraries are missing here"
    )
    options = parser.parse_args()
    # What ``make`` sets too: nothing here reaches for a hub.
    os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    if lacking := missing(TO_MEASURE | TO_TEST if options.check else TO_MEASURE):
        print(f"{sys.executable} lacks {', '.join(lacking)}.", file=sys.stderr)
        return 2
    if options.check:
        return 0
    if options.table:
        from benchmarks.gpu.command import print_markdown

        return print_markdown(options.table)
    from benchmarks.gpu.command import run

    return run(options)


if __name__ == "__main__":
    sys.exit(main())
