"""``init`` and ``check`` read the same rows and columns, whatever the file."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pyarrow
import pyarrow.feather
import pyarrow.parquet
import pytest

from sweeper.commands.init.draft import Request, write_draft
from sweeper.commands.init.draft_study import draft_from_recipe, draft_study
from sweeper.config.data import DataConfig
from sweeper.config.loading import find_data, load_study
from sweeper.distillation.data.examples import read_examples
from sweeper.foundation.errors import ConfigError
from sweeper.study.manifest import input_hashes, model_folders
from tests.support.data_checks import study_on, write_rows
from tests.support.tiny_studies import make_model

Rows = list[dict[str, Any]]


def _turns(n: int) -> list[dict[str, str]]:
    return [
        {"role": "user", "content": f"What is {n} + 1?"},
        {"role": "assistant", "content": f"ü, {n + 1}\nor so"},
    ]


SHAPES: dict[str, Callable[[int], dict[str, Any]]] = {
    "prompt and completion": lambda n: {"prompt": f"{n} + 1?", "completion": f"{n + 1}"},
    "question and answer": lambda n: {"question": f"{n} + 1?", "answer": "None", "id": f"{n}"},
    "alpaca": lambda n: {
        "instruction": "Add.", "input": f"{n} + 1" if n else None, "output": f"{n + 1}, so"},
    "prompts": lambda n: {"prompts": f"what is {n}\n+ 1?"},
    "messages": lambda n: {"messages": _turns(n)},
    "sharegpt": lambda n: {"conversations": [
        {"from": "human", "value": f"{n}?"}, {"from": "gpt", "value": "ü"}]},
    "trl": lambda n: {"prompt": _turns(n)[:1], "completion": _turns(n)[1:]},
}  # fmt: skip


def _lines(rows: Rows) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def _cells(rows: Rows, delimiter: str = ",") -> bytes:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[-1]), delimiter=delimiter)
    writer.writeheader()
    for row in rows:
        written = {k: json.dumps(v) if isinstance(v, list) else v for k, v in row.items()}
        writer.writerow(written)
    return text.getvalue().encode()


def _columnar(rows: Rows, kind: str) -> bytes:
    table, sink = pyarrow.Table.from_pylist(rows), pyarrow.BufferOutputStream()
    if kind == "parquet":
        pyarrow.parquet.write_table(table, sink)
    else:
        with getattr(pyarrow.ipc, kind)(sink, table.schema) as writer:
            writer.write_table(table)
    return bytes(sink.getvalue())


BOM = b"\xef\xbb\xbf"
FILES: dict[str, Callable[[Rows], bytes]] = {
    "rows.jsonl": _lines,
    "bom.jsonl": lambda rows: BOM + _lines(rows),
    "crlf.JSONL": lambda rows: _lines(rows).replace(b"\n", b"\r\n"),
    "rows.ndjson": _lines,
    "list.json": lambda rows: json.dumps(rows).encode(),
    "pretty.json": lambda rows: json.dumps(rows, indent=2, ensure_ascii=False).encode(),
    "held.json": lambda rows: json.dumps({"version": 1, "examples": rows}).encode(),
    "rows.csv": _cells,
    "bom.csv": lambda rows: BOM + _cells(rows),
    "rows.tsv": lambda rows: _cells(rows, "\t"),
    "rows.parquet": lambda rows: _columnar(rows, "parquet"),
    "stream.arrow": lambda rows: _columnar(rows, "new_stream"),
    "rows.feather": lambda rows: _columnar(rows, "new_file"),
    "rows.jsonl.gz": lambda rows: gzip.compress(_lines(rows)),
    "rows.csv.bz2": lambda rows: bz2.compress(_cells(rows)),
    "rows.json.xz": lambda rows: lzma.compress(_lines(rows)),
    "rows.jsonl.zst": lambda rows: pyarrow.compress(_lines(rows), "zstd", asbytes=True),
    "folder/train.jsonl": _lines,
}
"""Names of files, and what writes rows into them."""


def conversations(data: DataConfig, study: Path) -> list[tuple[str, str | None]]:
    """Return what the examples of a study's data are about, in order."""
    path = find_data(data.train.path, study)
    assert path is not None
    return [(e.prompt, e.completion) for e in read_examples(data, [str(path.resolve())])]


def agree(folder: Path, name: str, rows: Rows) -> None:
    """Check that the study that ``init`` writes on a file has the file's rows, all of them."""
    study = folder / "mine.yaml"
    data = folder / name.partition("/")[0]
    draft = draft_study(Request(study, "a/teacher", "a/student", str(data)))
    write_draft(draft, study, "made by a test")
    field = {"field": "examples"} if name.startswith("held") else {}
    own = DataConfig.model_validate({"train": {"path": data.name, **field}})
    made = DataConfig.model_validate(draft.values["data"])
    expected, found = conversations(own, study), conversations(made, study)
    assert len(expected) == len(rows)
    held = folder / "mine" / "held-out.jsonl"
    if held.is_file():
        lines = [json.loads(line) for line in held.read_text(encoding="utf-8").splitlines()]
        found += [(line["prompt"], line["completion"]) for line in lines]
        assert len(lines) > 3
    assert sorted(map(str, found)) == sorted(map(str, expected))


@pytest.mark.parametrize("shape", SHAPES)
def test_init_writes_the_rows_and_columns_that_check_reads(tmp_path: Path, shape: str) -> None:
    rows = [SHAPES[shape](n) for n in range(24)]
    for number, (name, written) in enumerate(FILES.items()):
        path = tmp_path / str(number) / name
        path.parent.mkdir(parents=True)
        if shape == "trl" and name.endswith((".csv", ".tsv", ".csv.bz2")):
            continue  # its messages are text there, which is refused
        path.write_bytes(written(rows))
        agree(tmp_path / str(number), name, rows)


QUESTIONS = [SHAPES["question and answer"](n) for n in range(24)]


@pytest.mark.parametrize(
    "name",
    ["bom.csv", "bom.jsonl", "rows.jsonl.gz", "rows.ndjson"],
    ids=["init_bom_csv", "init_bom_jsonl", "gz", "ndjson"],
)
def test_a_case_of_one_reader(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(FILES[name](QUESTIONS))
    agree(tmp_path, name, QUESTIONS)


def test_save_to_disk(tmp_path: Path) -> None:
    datasets.Dataset.from_list(QUESTIONS).save_to_disk(tmp_path / "mydata")
    agree(tmp_path, "mydata", QUESTIONS)


def test_lone_surrogate_and_latin_1_are_told_by_init_as_well(tmp_path: Path) -> None:
    for content, message in (
        (b'{"prompt": "a\\ud83d", "completion": "b"}\n', "train.jsonl:1: row 1 holds half of a"),
        (b'{"prompt": "caf\xe9", "completion": "b"}\n', "train.jsonl:1: expected UTF-8 text"),
    ):
        (tmp_path / "train.jsonl").write_bytes(content)
        with pytest.raises(ConfigError, match=message):
            draft_study(Request(tmp_path / "a.yaml", "t", "s", str(tmp_path / "train.jsonl")))


def test_columns_of_pandas_are_named(tmp_path: Path) -> None:
    for values in (
        {"prompt": ["a", "b"], "completion": ["c", "d"]},
        {"prompt": {"0": "a", "1": "b"}, "completion": {"0": "c", "1": "d"}},
    ):
        path = tmp_path / "train.json"
        path.write_text(json.dumps(values), encoding="utf-8")
        with pytest.raises(
            ConfigError, match=r"object of columns \(prompt, completion\), not rows"
        ):
            draft_study(Request(tmp_path / "a.yaml", "t", "s", str(path)))


RECIPE = """\
model:
  model_name: a/student
  chat_template_kwargs: {enable_thinking: false}
data:
  train:
    datasets:
      - {dataset_name: distillation, dataset_path: prompts.jsonl}
training:
  trainer_type: TRL_GKD
  max_steps: 50
  gkd: {teacher_model_name_or_path: a/teacher, temperature: 1.0}
"""


def test_oumi_recipes(tmp_path: Path) -> None:
    write_rows(tmp_path / "prompts.jsonl", [{"prompts": f"what is {n} plus 4?"} for n in range(3)])
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(RECIPE, encoding="utf-8")
    draft = draft_from_recipe(recipe, Request(tmp_path / "mine.yaml"))
    data = DataConfig.model_validate(draft.values["data"])
    assert data.chat_template_kwargs == {"enable_thinking": False}
    assert [prompt for prompt, _ in conversations(data, tmp_path / "mine.yaml")] == [
        f"what is {n} plus 4?" for n in range(3)
    ]
    assert "sft" not in draft.values["arms"]
    (tmp_path / "prompts.jsonl").unlink()
    draft = draft_from_recipe(recipe, Request(tmp_path / "other.yaml"))
    assert draft.values["data"]["train"]["path"] == "FILL-IN-DATA"
    assert any("recipe.yaml:7:" in told for told in draft.fill_in)


def test_folder_not_hashed(tmp_path: Path) -> None:
    (tmp_path / "rows").mkdir()
    models = {"teacher": "builtin/adder-teacher", "student": "builtin/adder-student"}
    write_rows(tmp_path / "rows" / "train.jsonl", [{"prompt": "1+1?", "completion": "#2"}])
    study = study_on(tmp_path, "rows", models)
    before = input_hashes(load_study(study))
    assert input_hashes(load_study(study)) == before
    write_rows(tmp_path / "rows" / "train.jsonl", [{"prompt": "1+1?", "completion": "#3"}])
    os.utime(tmp_path / "rows" / "train.jsonl", (0, 0))
    after = input_hashes(load_study(study))
    assert [key for key in before if before[key] != after[key]] == ["data rows"]


def test_ghost_folder_b_is_refused_where_it_is_not(tmp_path: Path) -> None:
    models = {"teacher": "builtin/adder-teacher", "student": "builtin/adder-student"}
    with pytest.raises(ConfigError, match=r"found no folder '\./corpus_x' in"):
        load_study(study_on(tmp_path, "./corpus_x", models))


def test_models_beside_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "proj"
    models = {role: f"models/{role}" for role in ("teacher", "student")}
    for name in models.values():
        make_model(folder / name, layers=1, width=4)
    write_rows(folder / "train.jsonl", [{"prompt": "1+1?", "completion": "#2"}])
    study = study_on(folder, "train.jsonl", models)
    monkeypatch.chdir("/")
    assert model_folders(load_study(study)) == {
        name: str(folder / name) for name in models.values()
    }
