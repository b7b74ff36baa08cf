"""Write the generated data files of the suites below ``eval_suites``.

``python -m scripts.write_suites`` writes all of them. The files are committed; a test checks that
they are what this script writes.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from sweeper.config.builtin import addition, facts


def write_addition(directory: Path) -> dict[Path, int]:
    """Write the test split that ``eval_suites/tasks/addition.yaml`` reads.

    Returns:
        Number of lines by file.
    """
    return _write(directory / "data" / "addition.jsonl", addition.problems("test"))


def write_facts(directory: Path) -> dict[Path, int]:
    """Write the rows that the tasks below ``eval_suites/smollm2`` read: selection, then test.

    Returns:
        Number of lines by file.
    """
    counts: dict[Path, int] = {}
    for name, rows_of in (("questions", facts.questions), ("choices", facts.choices)):
        rows = [row for split in ("selection", "test") for row in rows_of(split)]
        counts |= _write(directory / "smollm2" / "data" / f"{name}.jsonl", rows)
    return counts


def _write(path: Path, rows: Iterable[Mapping[str, Any]]) -> dict[Path, int]:
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(lines), encoding="utf-8")
    return {path: len(lines)}


def main() -> None:
    """Write all files below one folder."""
    parser = argparse.ArgumentParser(prog="python -m scripts.write_suites")
    parser.add_argument("--output", type=Path, default=Path("eval_suites"))
    output = parser.parse_args().output
    for path, count in (write_addition(output) | write_facts(output)).items():
        print(f"{count} rows written to {path}")


if __name__ == "__main__":
    main()
