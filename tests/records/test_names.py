"""No name of a study, an arm or a suite leads out of ``runs``, and no link planted there does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from sweeper.config.loading import load_study, load_suite
from sweeper.config.names import is_name, is_reserved
from sweeper.foundation.errors import ConfigError, SweeperError
from sweeper.records.layout import StudyPaths
from sweeper.study.lock import hold
from tests.support.tiny_studies import adder_suite, write_yaml

BAD_NAMES = [
    "/etc/passwd",
    "..",
    "../other",
    "a/../../b",
    "a/b",
    "a\\b",
    "C:\\x",
    "a\0b",
    "~root",
    "-rf",
    ".hidden",
    "a\nb",
    "ä",
    "a:b",
    "x" * 65,
    "x" * 5000,
    "",
    "\u202eabc",
]


@pytest.mark.parametrize("name", BAD_NAMES)
def test_names_that_could_lead_elsewhere(
    name: str, write_study: Callable[..., Path], tmp_path: Path
) -> None:
    with pytest.raises(ConfigError) as caught:
        load_study(write_study(study=name))
    [problem] = caught.value.problems
    assert problem.path == "study" and "a name of letters, digits" in problem.message
    with pytest.raises(ConfigError) as caught:
        load_study(write_study(arms={name: {"method": "sft"}}))
    assert all(problem.path.startswith("arms") for problem in caught.value.problems)
    with pytest.raises(ConfigError) as caught:
        load_suite(write_yaml(tmp_path / "suite.yaml", adder_suite(name, 0, 1)))
    assert [problem.path for problem in caught.value.problems] == ["suite"]
    with pytest.raises(ConfigError):
        load_study(write_study(), [f"study={name}"])


@pytest.mark.parametrize(
    "name", ["mlflow.db", "MLflow.DB", "mlflow.db-wal", "mlflow.db-journal", "mlflow-artifacts"]
)
def test_names_of_other_files_of_runs(name: str, write_study: Callable[..., Path]) -> None:
    assert is_name(name) and is_reserved(name)
    with pytest.raises(ConfigError, match="expected another name"):
        load_study(write_study(study=name))


def test_arms_that_are_one_folder_on_some_file_systems(write_study: Callable[..., Path]) -> None:
    arms = {"Run": {"method": "sft"}, "run": {"method": "gkd"}, "other": {"method": "sft"}}
    with pytest.raises(ConfigError, match="names that differ in more than case, found 'Run' too"):
        load_study(write_study(arms=arms))


@pytest.mark.parametrize(
    "place",
    [
        "tiny",
        "tiny/arms",
        "tiny/arms/gkd",
        "tiny/arms/gkd/0000",
        "tiny/arms/gkd/0000/attempts",
        "tiny/preparation",
        "tiny/preparation/data",
    ],
)
@pytest.mark.parametrize("target", ["folder", "nowhere"])
def test_a_linked_folder_is_refused(tmp_path: Path, place: str, target: str) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    runs = tmp_path / "runs"
    link = runs / place
    link.parent.mkdir(parents=True)
    link.symlink_to(outside if target == "folder" else tmp_path / "nowhere")
    paths = StudyPaths(runs, "tiny")
    with pytest.raises(SweeperError, match="found a symbolic link to") as caught, hold(paths):
        pass
    assert caught.value.exit_code == 2
    assert str(link) in str(caught.value)
    if not place.endswith("attempts"):
        with pytest.raises(SweeperError, match="found a symbolic link to"):
            list(paths.trials("gkd"))
            paths.preparation("data")
    assert list(outside.iterdir()) == []


@pytest.mark.parametrize("name", ["study.db", "lock", "study.json", "arms/gkd/0000/log.txt"])
def test_a_linked_file_is_refused(tmp_path: Path, name: str) -> None:
    outside = tmp_path / "outside.txt"
    outside.write_text("mine")
    link = tmp_path / "runs" / "tiny" / name
    link.parent.mkdir(parents=True)
    link.symlink_to(outside)
    with (
        pytest.raises(SweeperError, match="found a symbolic link to"),
        hold(StudyPaths(tmp_path / "runs", "tiny")),
    ):
        pass
    assert outside.read_text() == "mine"


def test_the_runs_folder_itself_may_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "runs").symlink_to(tmp_path / "disk")
    with hold(StudyPaths(tmp_path / "runs", "tiny")):
        assert (tmp_path / "disk" / "tiny" / "holder").exists()


def test_trials_of_no_name_are_not_listed(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="arm's name must match"):
        list(StudyPaths(tmp_path, "s").trials("../.."))
