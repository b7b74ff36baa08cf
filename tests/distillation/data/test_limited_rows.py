"""With ``limit``, what comes after the first rows is not read."""

from __future__ import annotations

import gzip
import json
import os
import tracemalloc
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from sweeper.config.data import DataConfig
from sweeper.distillation.data.rows import read_rows
from sweeper.foundation.data_files import read_placed
from sweeper.foundation.errors import BadInputError

ROWS = [{"question": f"what is {number}?", "answer": str(number)} for number in range(5000)]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
CSV = "question,answer\n" + "".join(f"{row['question']},{row['answer']}\n" for row in ROWS)
BROKEN = b'{"question": \xff\n'


def limited(path: Path, limit: int | None) -> list[dict[str, Any]]:
    data = DataConfig.model_validate({"train": {"path": str(path), "limit": limit}})
    rows, places = read_rows(data, (str(path),))
    assert [place.row for place in places] == list(range(1, len(rows) + 1))
    return rows


def parquet(path: Path) -> Path:
    pyarrow.parquet.write_table(
        pyarrow.Table.from_pylist(ROWS), path, row_group_size=100, compression="none"
    )
    content = bytearray(path.read_bytes())
    at = content.index(b"what is 4999?")  # later ones are statistics
    content[at : at + 4] = b"\xff\xff\xff\xff"  # no text
    path.write_bytes(content)
    return path


def arrow(path: Path, kind: Any) -> Path:
    table = pyarrow.Table.from_pylist(ROWS)
    with kind(str(path), table.schema) as writer:
        writer.write_table(table, max_chunksize=100)
    content = bytearray(path.read_bytes())
    at = content.rindex(b"what is 4999?")
    content[at : at + 4] = b"\xff\xff\xff\xff"
    path.write_bytes(content)
    return path


def written(folder: Path, name: str) -> Path:
    path = folder / name
    if path.suffix == ".parquet":
        return parquet(path)
    if path.suffix == ".arrow":
        return arrow(path, pyarrow.ipc.new_stream)
    if path.suffix == ".feather":
        return arrow(path, pyarrow.ipc.new_file)
    content = CSV.encode() + b'"\n' if ".csv" in name else LINES + BROKEN
    path.write_bytes(gzip.compress(content, mtime=0) if path.suffix == ".gz" else content)
    return path


@pytest.mark.parametrize(
    "name", ["a.jsonl", "a.json", "a.csv", "a.jsonl.gz", "a.parquet", "a.arrow", "a.feather"]
)
def test_rows_after_the_limit_are_not_looked_at(tmp_path: Path, name: str) -> None:
    """Each of these files is damaged at its end."""
    path = written(tmp_path, name)
    for limit in (1, 7, 1000):
        assert limited(path, limit) == ROWS[:limit]
    with pytest.raises(BadInputError, match=name):
        limited(path, None)


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv"])
def test_a_file_larger_than_memory_is_not_read_whole(tmp_path: Path, name: str) -> None:
    path = written(tmp_path, name)
    os.truncate(path, 2**42)  # four tebibytes, of which the file system keeps a few kilobytes
    tracemalloc.start()
    try:
        assert limited(path, 1000) == ROWS[:1000]
        assert tracemalloc.get_traced_memory()[1] < 16 * 2**20
    finally:
        tracemalloc.stop()


def test_further_files_of_a_folder_are_not_opened(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(LINES)
    (tmp_path / "b.jsonl").write_bytes(BROKEN)
    assert limited(tmp_path, len(ROWS)) == ROWS
    with pytest.raises(BadInputError, match=r"b\.jsonl:1"):
        limited(tmp_path, len(ROWS) + 1)


def test_a_file_is_closed_when_nobody_asks_for_more(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(LINES)
    before = set(os.listdir("/proc/self/fd"))
    rows = read_placed(path)
    assert next(rows)[1] == ROWS[0]
    rows.close()  # type: ignore[attr-defined]
    assert set(os.listdir("/proc/self/fd")) == before
