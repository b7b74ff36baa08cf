"""One reader of local rows: what it reads, what it refuses, and that no row is lost."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import os
import random
from pathlib import Path
from typing import Any

import datasets
import pyarrow
import pyarrow.feather
import pyarrow.parquet
import pytest

from sweeper.foundation.data_files import read_placed, read_rows
from sweeper.foundation.data_folders import row_files
from sweeper.foundation.data_json import HeldRowsError
from sweeper.foundation.errors import BadInputError

ROWS = [
    {"question": "what is 1 plus 1?", "answer": "2"},
    {"question": "two\nlines, and \u2028 another kind of \x85 line", "answer": "2024-01-01"},
    {"question": "ümlaut 字 🙂", "answer": "None"},
]
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)
CSV = 'question,answer\nx,None\ny,NA\nz,\n007,1.0\n"a\nb","say ""so"""\n'
CSV_ROWS = [
    {"question": "x", "answer": "None"},
    {"question": "y", "answer": "NA"},
    {"question": "z", "answer": None},
    {"question": "007", "answer": "1.0"},
    {"question": "a\nb", "answer": 'say "so"'},
]


def parquet() -> bytes:
    sink = pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), sink)
    return bytes(sink.getvalue())


TWICE = pyarrow.table([pyarrow.array(["x"]), pyarrow.array(["y"])], names=["a", "a"])


def arrow(kind: Any) -> bytes:
    return arrow_of(pyarrow.Table.from_pylist(ROWS), kind)


def arrow_of(table: Any, kind: Any = pyarrow.ipc.new_stream) -> bytes:
    sink = pyarrow.BufferOutputStream()
    with kind(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


@pytest.mark.parametrize(
    ("name", "content", "rows"),
    [
        ("a.jsonl", LINES.encode(), ROWS),
        ("a.ndjson", LINES.encode(), ROWS),
        ("a.json", LINES.encode(), ROWS),
        ("A.JSONL", LINES.encode(), ROWS),
        ("bom.jsonl", b"\xef\xbb\xbf" + LINES.encode(), ROWS),
        ("crlf.jsonl", LINES.replace("}\n", "}\r\n").encode(), ROWS),
        ("blank.jsonl", LINES.replace("}\n", "}\n\n").encode(), ROWS),
        ("list.json", json.dumps(ROWS).encode(), ROWS),
        ("pretty.json", json.dumps(ROWS, indent=2).encode(), ROWS),
        ("pretty.jsonl", "\n".join(json.dumps(r, indent=2) for r in ROWS).encode(), ROWS),
        ("one.json", b'{"messages": [{"role": "user", "content": "x"}]}',
         [{"messages": [{"role": "user", "content": "x"}]}]),
        ("a.jsonl.gz", gzip.compress(LINES.encode(), mtime=0), ROWS),
        ("a.jsonl.bz2", bz2.compress(LINES.encode()), ROWS),
        ("a.jsonl.XZ", lzma.compress(LINES.encode()), ROWS),
        ("a.jsonl.zst", pyarrow.compress(LINES.encode(), "zstd", asbytes=True), ROWS),
        ("a.csv", CSV.encode(), CSV_ROWS),
        ("bom.CSV", b"\xef\xbb\xbf" + CSV.encode(), CSV_ROWS),
        ("a.tsv", b"question\tanswer\nx\t1,2\n", [{"question": "x", "answer": "1,2"}]),
        ("a.csv.gz", gzip.compress(CSV.encode(), mtime=0), CSV_ROWS),
        ("a.parquet", parquet(), ROWS),
        ("a.arrow", arrow(pyarrow.ipc.new_stream), ROWS),
        ("file.arrow", arrow(pyarrow.ipc.new_file), ROWS),
        ("a.feather", arrow(pyarrow.ipc.new_file), ROWS),
        ("empty.jsonl", b"", []),
        ("lacking.jsonl", b'{"a": 1}\n{"b": null}\n', [{"a": 1}, {"b": None}]),
    ],
)  # fmt: skip
def test_a_format_is_read(
    tmp_path: Path, name: str, content: bytes, rows: list[dict[str, Any]]
) -> None:
    (tmp_path / name).write_bytes(content)
    assert read_rows(tmp_path / name) == rows


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("cut.jsonl", LINES + '{"question": "what is 1\n{"question": "b"}\n',
         "cut.jsonl:4: not valid JSON: Unterminated string"),
        ("cut.json", "[\n{},\n{\n", "cut.json:4: not valid JSON"),
        ("latin.jsonl", b'{"a": "x"}\n{"a": "caf\xe9"}\n',
         "latin.jsonl:2: expected UTF-8 text, found the byte 0xe9"),
        ("windows.jsonl", b'{"a": "caf\xe9"}\n{"a": "\x93x\x94"}\n',
         "windows.jsonl:1: expected UTF-8 text, found the byte 0xe9: if the file is WINDOWS-1252"),
        ("pointer.parquet", "version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
         "is a pointer of Git LFS, without the rows: run git lfs pull"),
        ("wide.jsonl", LINES.encode("utf-16"), "found UTF-16: convert it with iconv"),
        ("half.jsonl", '{"a": "x"}\n{"a": "\\ud83d"}\n', "row 2 holds half of a surrogate pair"),
        ("twice.jsonl", '{"a": 1, "a": 2}\n', "the key 'a' stands twice"),
        ("numbers.jsonl", '{"a": 1}\n3\n', "expected a mapping as row 2, found 3"),
        ("held.json", json.dumps({"version": 1, "examples": ROWS}), "write field: examples next"),
        ("held.json", json.dumps({"examples": ROWS}, indent=1), "write field: examples next"),
        ("deep.jsonl", "[" * 100_000, "not valid JSON"),
        ("few.csv", "a,b\nx\n", "few.csv:2: expected 2 cells, found 1"),
        ("many.csv", "a,b\nx,y\nx,y,z\n", "many.csv:3: expected 2 cells, found 3"),
        ("spaced.csv", 'a,b\nx,y\nx, "y"\n', "spaced.csv:3: a space before the quotes of a cell"),
        ("spaced.csv", 'a,b\nx, "y, z"\n', "spaced.csv:2: a space before the quotes of a cell"),
        ("quoted.csv", '"a";"b"\n"x";"y"\n', "expected columns divided by commas, found ;"),
        ("unmarked.jsonl", LINES.encode("utf-16-le"), "found UTF-16: convert it with iconv"),
        ("twice.arrow", arrow_of(TWICE), "the column 'a' stands there twice"),
        ("semicolons.csv", "a;b\nx;y\n", "expected columns divided by commas, found ;"),
        ("same.csv", "a,a\nx,y\n", "the column 'a' stands there twice"),
        ("quote.csv", 'a,b\n"x,y\n', "not valid CSV"),
        ("not.jsonl.gz", LINES, "not.jsonl.gz cannot be read"),
        ("short.jsonl.gz", gzip.compress(LINES.encode(), mtime=0)[:30],
         "short.jsonl.gz cannot be read"),
        ("short.jsonl.zst", pyarrow.compress(b"{}", "zstd", asbytes=True)[:5],
         "short.jsonl.zst cannot be read"),
        ("columns.json", json.dumps({"prompt": ["a", "b"], "answer": ["c", "d"]}),
         "holds one object of columns (prompt, answer), not rows"),
        ("pandas.json", json.dumps({"prompt": {"0": "a"}, "answer": {"0": "c"}}),
         "holds one object of columns (prompt, answer), not rows"),
        ("not.parquet", LINES, "not.parquet cannot be read"),
        ("not.arrow", LINES, "not.arrow cannot be read"),
        ("rows.txt", LINES, "expected a file of rows (.json, "),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_named(
    tmp_path: Path, name: str, content: str | bytes, message: str
) -> None:
    raw = content if isinstance(content, bytes) else content.encode()
    (tmp_path / name).write_bytes(raw)
    with pytest.raises(BadInputError) as caught:
        read_rows(tmp_path / name)
    assert message in str(caught.value)
    assert name in str(caught.value)


def test_rows_inside_an_object_are_read_by_their_key(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"version": "1.0", "data": ROWS}), encoding="utf-8")
    with pytest.raises(HeldRowsError) as caught:
        read_rows(path)
    assert caught.value.keys == ("data",)
    assert read_rows(path, field="data") == ROWS
    with pytest.raises(BadInputError, match="no list of rows at the key 'rows', only version"):
        read_rows(path, field="rows")


def test_rows_have_places(tmp_path: Path) -> None:
    for name, content, lines in (
        ("a.jsonl", '{"a": 1}\n\n{"a": 2}\n', [1, 3]),
        ("a.csv", 'a,b\n"x\ny",z\nv,w\n', [2, 4]),
        ("pretty.jsonl", '{\n"a": 1}\n{\n"a": 2\n}\n', [1, 3]),
        ("a.json", '[{"a": 1},\n{"a": 2}]', [None, None]),
    ):
        (tmp_path / name).write_text(content, encoding="utf-8")
        places = [place for place, _ in read_placed(tmp_path / name)]
        assert [place.line for place in places] == lines
        assert [place.row for place in places] == [1, 2]
    assert str(places[1]) == f"row 2 of {tmp_path / 'a.json'}"


def test_stale_data_mtime_does_not_matter_as_rows_are_read_by_content(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    for rows in (ROWS, ROWS[:1]):
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        os.utime(path, (0, 0))
        assert read_rows(path) == rows


def test_a_folder_has_splits(tmp_path: Path) -> None:
    def write(name: str, *rows: dict[str, Any]) -> None:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")

    write("all/b.jsonl", ROWS[1])
    write("all/a.jsonl", ROWS[0])
    write("all/README.md")
    write("all/dataset_info.json", {"features": {}})
    write("all/.git/c.jsonl", ROWS[2])
    assert read_rows(tmp_path / "all") == ROWS[:2]
    with pytest.raises(BadInputError, match=r"no split 'test' in .*; it has train"):
        read_rows(tmp_path / "all", "test")

    write("named/train-00000-of-00002.jsonl", ROWS[0])
    write("named/sub/train-00001-of-00002.jsonl", ROWS[1])
    write("named/dev/rows.jsonl", ROWS[2])
    assert [path.name for path in row_files(tmp_path / "named")] == [
        "train-00001-of-00002.jsonl",
        "train-00000-of-00002.jsonl",
    ]
    assert read_rows(tmp_path / "named", "validation") == ROWS[2:]
    write("named/rest.jsonl", ROWS[2])
    with pytest.raises(BadInputError, match="expected a split in the name of every file"):
        read_rows(tmp_path / "named")
    (tmp_path / "all" / "c.jsonl").symlink_to(tmp_path / "nowhere.jsonl")
    with pytest.raises(BadInputError, match=r"c.jsonl is a link to a file that is not there"):
        read_rows(tmp_path / "all")
    (tmp_path / "none").mkdir()
    with pytest.raises(BadInputError, match="expected files of rows"):
        read_rows(tmp_path / "none")
    with pytest.raises(BadInputError, match="no file or folder"):
        read_rows(tmp_path / "nowhere")


def test_a_folder_of_save_to_disk_is_read(tmp_path: Path) -> None:
    made = datasets.Dataset.from_list(ROWS)
    made.save_to_disk(tmp_path / "one")
    assert read_rows(tmp_path / "one") == ROWS
    datasets.DatasetDict({"train": made, "test": made.select([0])}).save_to_disk(tmp_path / "two")
    assert read_rows(tmp_path / "two", "test") == ROWS[:1]
    with pytest.raises(BadInputError, match=r"no split 'dev' in .*; it has train, test"):
        read_rows(tmp_path / "two", "dev")
    (tmp_path / "one" / "data-00000-of-00001.arrow").unlink()
    with pytest.raises(BadInputError, match="is not complete: no file"):
        read_rows(tmp_path / "one")


def test_whatever_a_file_holds_its_rows_are_read_or_it_is_refused(tmp_path: Path) -> None:
    draw = random.Random(0)
    parts = [b"", b"\n", b'"', b"{", b"}", b",", b"\xff", b"\\ud800", b"\0"]
    names = ("a.jsonl", "a.json", "a.csv", "a.tsv", "a.parquet", "a.arrow", "a.jsonl.gz")
    bases = (
        LINES.encode(),
        json.dumps(ROWS).encode(),
        CSV.encode(),
        CSV.replace(",", "\t").encode(),
        parquet(),
        arrow(pyarrow.ipc.new_stream),
        gzip.compress(LINES.encode(), mtime=0),
    )
    read = 0
    for _ in range(3000):
        index = draw.randrange(len(names))
        content = bytearray(bases[index])
        for _ in range(draw.randrange(4)):
            place = draw.randrange(len(content))
            content[place : place + draw.randrange(3)] = draw.choice([*parts, bytes([place % 256])])
        path = tmp_path / draw.choice([names[index], names[index], draw.choice(names)])
        path.write_bytes(content)
        try:
            rows = read_rows(path)
        except BadInputError as error:
            assert path.name in str(error)
            assert "\n" not in str(error)
            continue
        read += 1
        if path.name == "a.jsonl" and index == 0:
            assert len(rows) == sum(bool(line.strip()) for line in bytes(content).split(b"\n"))
        assert all(isinstance(row, dict) for row in rows)
        json.dumps(rows, ensure_ascii=False, default=str).encode()
    assert read > 500
