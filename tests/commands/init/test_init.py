"""``sweeper init``: what it writes loads, and asks for what is missing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from ruamel.yaml import YAML

from sweeper.commands.init.draft import Draft, Request, write_draft
from sweeper.commands.init.draft_study import RECIPE_ARM, draft_from_recipe, draft_study
from sweeper.commands.init.local_data import read_rows
from sweeper.config.loading import load_study
from sweeper.config.settings import METHODS
from sweeper.config.yaml_text import yaml_text
from sweeper.foundation.errors import ConfigError
from sweeper.records import SuiteSpec
from sweeper.study.manifest import suite_spec
from tests.support.gpus import report_gpus
from tests.support.oumi_recipes import BASIC, CONSERVATIVE, WHOLE
from tests.support.tiny_studies import DATA, ROOT


def rows_file(path: Path, answers: list[str], **columns: Any) -> Path:
    lines = [{"question": f"q {n}", "answer": a, **columns} for n, a in enumerate(answers)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def request(folder: Path, **named: Any) -> Request:
    values = {"teacher": "a/teacher", "student": "a/student", "data": "a/data", **named}
    return Request(folder / "mine.yaml", **values)


def write(draft: Draft, folder: Path) -> list[str]:
    written = write_draft(draft, folder / "mine.yaml", "made by a test")
    return sorted(str(path.relative_to(folder)) for path in written)


def prompts_of(path: Path) -> set[str]:
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return {row.get("question") or row["prompt"] for row in rows}


def test_a_data_file_becomes_a_study_with_suites_of_held_out_prompts(tmp_path: Path) -> None:
    data = str(DATA / "gsm8k-train.jsonl")
    draft = draft_study(request(tmp_path, data=data))
    assert draft.fill_in == []
    write(draft, tmp_path)
    study = load_study(tmp_path / "mine.yaml")
    assert {arm.method for arm in study.config.arms.values()} == set(METHODS)
    assert study.test is not None and study.config.confirms()
    assert (study.selection.config.suite, study.test.config.suite) == (
        "mine-selection",
        "mine-test",
    )
    folder = tmp_path / "mine"
    held, kept = prompts_of(folder / "held-out.jsonl"), prompts_of(folder / "train.jsonl")
    assert held | kept == prompts_of(DATA / "gsm8k-train.jsonl") and not held & kept
    ranges = [s.config.tasks[0].documents for s in (study.selection, study.test)]
    assert ranges == [(0, 4), (4, 13)] and len(held) == 13
    columns = study.config.data.train.columns
    assert columns is not None and columns.completion == "answer"
    usual = {"lmbda": 0.5, "beta": 0.5, "temperature": 0.9}
    for arm in study.config.arms.values():
        rate = {"learning_rate": study.config.training.learning_rate}
        # No arm that searches has less to start with than another.
        assert arm.start_with == ({**usual, **rate} if arm.method == "gkd" else rate,)


@pytest.mark.parametrize(
    ("answers", "right", "wrong"),
    [
        ([f"so\n#### 1,{n:03}" for n in range(30)], "thus #### 1,0 no #### {number}", "#### 7"),
        ([f"Paris {n}" for n in range(30)], "  paris, {number}\n", "Rome"),
        ([f"a long and winding road {n}" for n in range(30)], "a long way, {number}", "no"),
    ],
)
def test_answers_are_scored_as_the_references_suggest(
    tmp_path: Path, answers: list[str], right: str, wrong: str
) -> None:
    from sweeper.evaluation.tasks import load_tasks

    data = rows_file(tmp_path / "rows.jsonl", answers)
    write(draft_study(request(tmp_path, data=str(data))), tmp_path)
    suite: SuiteSpec = suite_spec(load_study(tmp_path / "mine.yaml").selection)
    [leaf] = load_tasks(suite)
    document = leaf.document(leaf.documents[0])
    number = document["completion"].split()[-1]
    assert leaf.task.doc_to_text(document) == document["prompt"]

    def score(answer: str) -> float:
        leaf.task._instances = None
        from lm_eval.api.instance import Instance

        instance = Instance("generate_until", document, ("", {}), 0)
        instance.resps = [answer]
        leaf.task._instances = [instance]
        leaf.task.apply_filters()
        name = leaf.task._filters[0].name
        found = leaf.task.process_results(document, [instance.filtered_resps[name]])
        return float(next(iter(found.values())))

    assert score(right.format(number=number)) > 0.5 > score(wrong)


def test_repeated_prompts_are_held_out_together(tmp_path: Path) -> None:
    rows = [{"prompt": f"p  {n % 25}", "completion": str(n)} for n in range(100)]
    data = tmp_path / "rows.json"
    data.write_text(json.dumps(rows), encoding="utf-8")
    write(draft_study(request(tmp_path, data=str(data))), tmp_path)
    folder = tmp_path / "mine"
    held, kept = prompts_of(folder / "held-out.jsonl"), (folder / "train.jsonl").read_text()
    assert len(held) == 7 and not any(f'"{prompt}"' in kept for prompt in held)
    assert len(kept.splitlines()) == 100 - 4 * 7


def test_the_input_of_alpaca_rows_is_asked_and_held_out(tmp_path: Path) -> None:
    rows = [{"instruction": "Add.", "input": f"{n} + 1", "output": f"{n + 1}"} for n in range(100)]
    data = tmp_path / "rows.json"
    data.write_text(json.dumps(rows), encoding="utf-8")
    write(draft_study(request(tmp_path, data=str(data))), tmp_path)
    held = prompts_of(tmp_path / "mine" / "held-out.jsonl")
    assert held and held <= {f"Add.\n\n{row['input']}" for row in rows}
    columns = load_study(tmp_path / "mine.yaml").config.data.train.columns
    assert columns is not None and columns.input == "input"


def test_other_data_get_suites_to_complete(tmp_path: Path) -> None:
    few = rows_file(tmp_path / "few.jsonl", ["a"] * 5)
    for number, data in enumerate(["a/hub-data", str(few)]):
        folder = tmp_path / str(number)
        draft = draft_study(request(folder, data=data))
        write_draft(draft, folder / "mine.yaml", "made by a test")
        assert draft.fill_in == ["the tasks in mine/selection.yaml and mine/test.yaml"]
        with pytest.raises(ConfigError) as caught:
            load_study(folder / "mine.yaml")
        told = "tasks.0.task: expected a value of your own, found the placeholder 'FILL-IN-TASK'"
        assert [str(problem).split(": ", 1)[1] for problem in caught.value.problems] == [told] * 2
        assert [problem.line for problem in caught.value.problems] == [6, 6]


def test_prompts_alone_leave_the_answers_to_the_teacher(tmp_path: Path) -> None:
    data = tmp_path / "rows.csv"
    data.write_text("prompt\none\ntwo\n", encoding="utf-8")
    suites = ROOT / "eval_suites"
    own = {role: suites / f"addition-{role}.yaml" for role in ("selection", "test")}
    write(draft_study(request(tmp_path, data=str(data), **own)), tmp_path)
    arms = load_study(tmp_path / "mine.yaml").config.arms
    assert "sft" not in arms and arms["gkd"].settings["seq_kd"] is True


def test_suites_of_ones_own_are_taken(tmp_path: Path) -> None:
    suites = ROOT / "eval_suites"
    data = rows_file(tmp_path / "rows.jsonl", ["a"] * 30)
    own = {role: suites / f"addition-{role}.yaml" for role in ("selection", "test")}
    draft = draft_study(request(tmp_path, data=str(data), **own))
    assert write(draft, tmp_path) == ["mine.yaml"]
    study = load_study(tmp_path / "mine.yaml")
    assert study.selection.config.suite == "addition-selection"
    assert study.config.data.train.path == "rows.jsonl"


def test_a_recipe_becomes_an_arm_beside_a_search_and_baselines(tmp_path: Path) -> None:
    recipe = tmp_path / "gkd.yaml"
    recipe.write_text(
        BASIC.replace(
            "  use_peft", "  warmup_steps: 3\n  gradient_accumulation_steps: 2\n  use_peft"
        )
    )
    data = str(DATA / "gsm8k-train.jsonl")
    draft = draft_from_recipe(recipe, Request(tmp_path / "mine.yaml", data=data))
    assert draft.fill_in == []
    write(draft, tmp_path)
    config = load_study(tmp_path / "mine.yaml").config
    assert list(config.arms) == ["gkd", RECIPE_ARM, "sft", "seqkd", "supervised_kd"]
    assert not config.arms[RECIPE_ARM].search
    assert all(arm.start_with for arm in config.arms.values() if arm.search)
    assert config.arms[RECIPE_ARM].settings["max_new_tokens"] == 256
    # 48 rows without 13: three epochs of three steps of 16.
    assert config.training.max_steps == 9
    assert config.training.warmup_ratio == pytest.approx(3 / 9)
    assert config.student.lora is not None and config.student.lora.r == 16


def test_the_precision_of_the_machines_gpus_is_written_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def training(name: str, *capabilities: str, recipe: str | None = None) -> dict[str, Any]:
        folder = tmp_path / name
        folder.mkdir()
        report_gpus(monkeypatch, folder, len(capabilities), capabilities=capabilities)
        if recipe is None:
            draft = draft_study(request(folder))
        else:
            (folder / "recipe.yaml").write_text(recipe, encoding="utf-8")
            draft = draft_from_recipe(folder / "recipe.yaml", request(folder))
        write(draft, folder)
        for key in ("bf16", "tf32", "optim"):
            told = draft.comments.get(("training", key))
            assert told in (None, "the default on GPU 9.0 (compute capability 9.0)")
        values: dict[str, Any] = draft.values["training"]
        return {key: values[key] for key in ("bf16", "tf32", "optim") if key in values}

    fast = {"bf16": True, "tf32": True, "optim": "adamw_torch_fused"}
    assert training("new", "9.0", "9.0") == fast
    # Older GPUs, and CPUs, are left to the defaults of the keys.
    assert training("mixed", "9.0", "7.0") == training("none") == {}
    # What a recipe says stays.
    recipe = BASIC.replace("  use_peft: True", "  use_peft: True\n  optimizer: sgd")
    taken = training("recipe", "9.0", recipe=recipe)
    assert taken["optim"] == "sgd" and taken["tf32"] is True


def test_what_a_recipe_lacks_is_marked_and_asked_for(tmp_path: Path) -> None:
    recipe = tmp_path / "gkd.yaml"
    recipe.write_text(CONSERVATIVE + "  output_dir: out\n", encoding="utf-8")
    draft = draft_from_recipe(recipe, Request(tmp_path / "mine.yaml"))
    write(draft, tmp_path)
    assert [text.split(",")[0].split(":")[0] for text in draft.fill_in] == [
        "student.model", "data.train.path", "training.max_steps",
        "the tasks in mine/selection.yaml and mine/test.yaml",
    ]  # fmt: skip
    with pytest.raises(ConfigError) as caught:
        load_study(tmp_path / "mine.yaml")
    assert {(problem.path, problem.line is None) for problem in caught.value.problems} == {
        ("student.model", False),
        ("data.train.path", False),
        ("tasks.0.task", False),
    }
    text = (tmp_path / "mine.yaml").read_text(encoding="utf-8")
    assert text.count("FILL-IN:") == 4
    assert "#   training.output_dir: not taken over: a study keeps its files below runs/" in text


def test_a_value_that_a_study_cannot_have_is_told_in_the_recipe(tmp_path: Path) -> None:
    recipe = tmp_path / "gkd.yaml"
    recipe.write_text(CONSERVATIVE.replace("beta: 0.0", "beta: 1.5"), encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        draft_from_recipe(recipe, Request(tmp_path / "mine.yaml"))
    place = f"{recipe}:6:5: training.gkd.beta"
    assert str(caught.value) == f"{place}: expected a number less than or equal to 1, found 1.5"


def test_whatever_stands_in_a_recipe_is_taken_or_told(tmp_path: Path) -> None:
    recipe, known = tmp_path / "gkd.yaml", YAML(typ="safe", pure=True).load(WHOLE)
    shutil.copy(DATA / "gsm8k-train.jsonl", tmp_path / "rows.jsonl")
    told = 0
    for path, parent in list(_parents(known, ())):
        before = parent[path[-1]]
        for odd in ("x", {"a": [None]}):
            parent[path[-1]] = odd
            recipe.write_text(yaml_text(known), encoding="utf-8")
            try:
                draft_from_recipe(recipe, Request(tmp_path / "mine.yaml", student="a/b"))
            except ConfigError as error:
                told += 1
                for problem in error.problems:
                    placed = problem.line is not None or problem.source.endswith("rows.jsonl")
                    assert placed, (path, odd, problem)
        parent[path[-1]] = before
    assert told > 40


def _parents(value: Any, path: tuple[str | int, ...]) -> Iterator[tuple[Any, Any]]:
    """Every key of a document with what holds it."""
    for key in list(value) if isinstance(value, dict) else range(len(value)):
        yield (*path, key), value
        if isinstance(value[key], dict | list):
            yield from _parents(value[key], (*path, key))


def test_every_kind_of_file_is_read(tmp_path: Path) -> None:
    rows = [{"prompt": "a", "completion": "b"}, {"prompt": "c", "completion": "d, e"}]
    (tmp_path / "a.json").write_text(json.dumps(rows), encoding="utf-8")
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    (tmp_path / "a.csv").write_text('prompt,completion\na,b\nc,"d, e"\n', encoding="utf-8")
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "a.parquet")
    for suffix in ("json", "jsonl", "csv", "parquet"):
        assert read_rows(tmp_path / f"a.{suffix}").rows == rows, suffix
    with pytest.raises(ConfigError, match=r"b.csv: no file or folder"):
        read_rows(tmp_path / "b.csv")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", ": expected rows, found none"),
        ('{"question": "a", "answer": "b"}\n{"question"\n',
         ":2: not valid JSON: Expecting ':' delimiter (column 12)"),
        ('{"a": 1}\n', ": expected: {prompt: …, completion: …}"),
        ('{"prompt": "a", "completion": 3}\n',
         ": expected text in column 'completion' of row 1 (line 1), found 3; 1 of 1 rows"),
        ("[3]\n", ": expected a mapping as row 1, found 3"),
    ],
)  # fmt: skip
def test_data_that_cannot_be_used_are_told(tmp_path: Path, content: str, message: str) -> None:
    data = tmp_path / "rows.jsonl"
    data.write_text(content, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        draft_study(request(tmp_path, data=str(data)))
    assert str(caught.value).startswith(f"{data}{message}")


def test_nothing_is_overwritten_or_half_written(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    draft = draft_study(request(tmp_path))
    with pytest.raises(ConfigError, match="--output: expected a new file"):
        write(draft, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
    with pytest.raises(ConfigError, match=r"--output: expected a file NAME.yaml"):
        draft_study(Request(tmp_path / "a b.yaml", "t", "s", "d"))
