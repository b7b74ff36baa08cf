"""Every study and suite that is shipped loads, wherever it lies."""

from __future__ import annotations

from pathlib import Path

import pytest
from ruamel.yaml import YAML

from sweeper.config.loading import load_study, load_suite
from tests.support.tiny_studies import DATA, ROOT, write_yaml

FILES = [
    p for folder in ("studies", "eval_suites") for p in sorted((ROOT / folder).rglob("*.y*ml"))
]
STUDIES = [path for path in FILES if path.is_relative_to(ROOT / "studies")]
TASKS = [path for path in FILES if "tasks" in path.relative_to(ROOT).parts[1:-1]]
SUITES = [path for path in FILES if path not in STUDIES and path not in TASKS]


def _name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_there_is_something_to_check() -> None:
    assert ROOT / "studies" / "quickstart.yaml" in STUDIES
    assert SUITES
    assert TASKS


@pytest.mark.parametrize("path", STUDIES, ids=_name)
def test_the_study_loads_from_the_repository(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    study = load_study(path)
    assert study.test is not None, "a shipped study keeps a test suite for its finalists"
    assert study.config.compare or len({arm.method for arm in study.config.arms.values()}) > 1


@pytest.mark.parametrize("path", SUITES, ids=_name)
def test_the_suite_loads_and_has_the_tasks_that_lie_beside_it(path: Path) -> None:
    suite = load_suite(path)
    assert suite.config.suite == path.stem
    assert all(directory.is_dir() for directory in suite.task_directories)


@pytest.mark.parametrize("path", TASKS, ids=_name)
def test_the_task_file_names_a_task_that_some_suite_scores(path: Path) -> None:
    values = YAML(typ="rt", pure=True).load(path.read_text(encoding="utf-8"))
    if "task" not in values:
        pytest.skip("a file that other task files include")
    scored = {task.task for suite in SUITES for task in load_suite(suite).config.tasks}
    assert values["task"] in scored | {values.get("group")}


def test_no_study_is_named_twice() -> None:
    names = [load_study(path).config.study for path in STUDIES]
    assert len(names) == len(set(names))


def test_what_trains_on_gsm8k_trains_on_no_row_that_selects() -> None:
    studies = [load_study(path) for path in STUDIES]
    found = [study for study in studies if study.config.data.train.path == "openai/gsm8k"]
    assert len(found) == 3
    for study in found:
        train, [selection] = study.config.data.train, study.selection.config.tasks
        assert (train.split, selection.task) == ("train", "gsm8k_train_split")
        assert selection.documents is not None and train.limit == selection.documents[0]
        assert study.test is not None
        assert [task.task for task in study.test.config.tasks] == ["gsm8k_test_split"]


STAND_INS = {
    "qwen2.5-0.5b-gsm8k": "qwen2",
    "llama3.1-8b-int8-teacher": "llama3",
    "conservative": "smollm2",
}
"""The architectures of the models of studies that need the hub."""


@pytest.mark.slow
@pytest.mark.parametrize("name", STAND_INS)
def test_a_study_for_the_hub_trains_tiny_models_of_its_architectures(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everything but the sizes: templates, quantization, adapters, the task files, the lengths."""
    from sweeper.execution.worker.run import run_job
    from tests.support.tiny_models import make_tiny
    from tests.support.trial_jobs import prepare, trial_spec

    if name.startswith("llama"):
        pytest.importorskip("bitsandbytes")
    monkeypatch.chdir(ROOT)
    changes = {"data.train.path": DATA / "gsm8k-train.jsonl", "data.train.limit": 8}
    for role, layers in (("teacher", 2), ("student", 1)):
        changes[f"{role}.model"] = make_tiny(
            tmp_path / role, STAND_INS[name], layers=layers, max_position_embeddings=2048
        )
    for role, split, first in (("selection", "train", 40), ("test", "test", 0)):
        changes[f"evaluation.{role}"] = _offline_suite(tmp_path, role, split, first)
    changes |= {"training.max_steps": 1, "training.max_length": 1024}
    study = load_study(_copy(name, tmp_path), [f"{k}={v}" for k, v in changes.items()])
    outcome, _ = prepare(study, "data")
    assert outcome.data is not None, outcome.failure
    assert outcome.data.chat and outcome.data.used == 8
    assert not [note for note in outcome.data.notes if "template" in note or "made for" in note]
    trained = run_job(trial_spec(study, "gkd-recipe"))
    assert trained.state == "completed", trained.failure
    assert trained.cost.trained_tokens > 0


def _copy(name: str, folder: Path) -> Path:
    """The study where what it leaves behind goes to a test's folder."""
    path = folder / f"{name}.yaml"
    path.write_text((ROOT / "studies" / path.name).read_text(encoding="utf-8"), encoding="utf-8")
    return path


def _offline_suite(folder: Path, role: str, split: str, first: int) -> Path:
    """The suite with its own task files, on rows that lie in the repository."""
    folder = folder / role
    tasks = ROOT / "eval_suites" / "gsm8k" / "tasks"
    (folder / "tasks").mkdir(parents=True)
    for path in tasks.glob("*.yaml"):
        rows = DATA / f"gsm8k-{split}.jsonl"
        text = path.read_text(encoding="utf-8").replace("openai/gsm8k", "json")
        text = text.replace("dataset_name: main", f"dataset_kwargs: {{data_files: {rows}}}")
        text = text.replace("test_split: test", "test_split: train")
        (folder / "tasks" / path.name).write_text(text, encoding="utf-8")
    suite = YAML(typ="safe").load(ROOT / "eval_suites" / "gsm8k" / f"gsm8k-{role}.yaml")
    for task in suite["tasks"]:
        task["documents"] = [first, first + 2]
    return write_yaml(folder / f"{role}.yaml", suite)
