"""Every study and suite that is shipped loads, wherever it lies."""

from __future__ import annotations

from pathlib import Path

import pytest
from ruamel.yaml import YAML

from sweeper.config.loading import load_study, load_suite

ROOT = Path(__file__).resolve().parent.parent
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
    assert len({arm.method for arm in study.config.arms.values()}) > 1


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
