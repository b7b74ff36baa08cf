"""Relative places start from the file that names them, wherever a command runs."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from sweeper.config.loading import load_study, load_suite
from sweeper.distillation.data.training_data import own_teacher, unpack_models
from sweeper.foundation.errors import ConfigError
from sweeper.records.layout import StudyPaths
from sweeper.study.manifest import input_files, input_hashes, open_manifest, suite_spec
from sweeper.study.preparation import make_study_inputs
from tests.support.tiny_studies import adder_study, adder_suite, make_model, write_yaml


@pytest.fixture
def study_file(tmp_path: Path) -> Path:
    """A study whose data, suites and models lie beside it, each by a relative name."""
    folder = tmp_path / "my project"
    (folder / "data").mkdir(parents=True)
    rows = '{"prompt": "1+1", "completion": "2"}\n'
    (folder / "data" / "rows.jsonl").write_text(rows, encoding="utf-8")
    make_model(folder / "models" / "t", layers=1, width=8)
    shutil.copytree(folder / "models" / "t", folder / "models" / "own")
    shutil.copytree(folder / "models" / "t", folder / "s")
    study = adder_study(
        teacher={"model": "models/t"},
        student={"model": "./s"},
        data={"train": {"path": "data"}},
    )
    study["arms"]["gkd"]["settings"]["teacher.model"] = "models/own"
    for role in ("selection", "test"):
        write_yaml(folder / f"{role}.yaml", adder_suite(role, 0, 4))
    return write_yaml(folder / "study.yaml", study)


def test_models_and_data_are_found_from_every_working_directory(
    study_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = study_file.parent
    (tmp_path / "elsewhere").mkdir()
    hashes = []
    for working_directory in (tmp_path / "elsewhere", folder, tmp_path):
        monkeypatch.chdir(working_directory)
        named = [study_file, Path(study_file.name)] if working_directory == folder else [study_file]
        for name in named:
            study = load_study(name)
            hashes.append(input_hashes(study))
            assert {folder / "data", folder / "models" / "t", folder / "s"} <= set(
                input_files(study)
            )
    assert all(hashed == hashes[0] for hashed in hashes)
    assert {"teacher models/t", "teacher models/own", "student ./s", "data data"} <= set(hashes[0])

    study = load_study(study_file)
    manifest = open_manifest(study, StudyPaths(tmp_path / "runs", "tiny"), [], 1)
    assert manifest.config.teacher.model == "models/t"
    inputs = make_study_inputs(study, manifest, tmp_path / "cache")
    loaded = unpack_models(inputs)
    assert loaded.teacher.model == str(folder / "models" / "t")
    assert loaded.student.model == str(folder / "s")
    own = own_teacher(loaded, {"model": "models/own"})
    assert own.model == str(folder / "models" / "own")


@pytest.mark.parametrize("place", ["models/t", "data", "selection.yaml"])
def test_a_name_with_two_meanings_is_refused(
    study_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    source, here = study_file.parent / place, tmp_path / "elsewhere" / place
    here.parent.mkdir(parents=True)
    if source.is_dir():
        shutil.copytree(source, here)
    else:
        here.write_text(source.read_text(encoding="utf-8") + "# changed\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path / "elsewhere")
    with pytest.raises(ConfigError) as caught:
        load_study(study_file)
    [problem] = caught.value.problems
    assert f"found '{place}' both next to study.yaml and in the working directory" in str(problem)


def test_a_model_that_can_only_be_local_has_to_be_there(
    study_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.rmtree(study_file.parent / "s")
    with pytest.raises(ConfigError, match=r"student.model: expected a folder with a model, found"):
        load_study(study_file)


def test_a_folder_that_a_task_names_belongs_to_the_suite(
    study_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = study_file.parent
    task = {"task": "own", "dataset_path": "../data"}
    write_yaml(folder / "own.yaml", {**adder_suite("own", 0, 1), "task_paths": ["tasks"]})
    (folder / "tasks").mkdir()
    write_yaml(folder / "tasks" / "own.yaml", task)
    before = suite_spec(load_suite(folder / "own.yaml")).content_hash
    (folder / "data" / "rows.jsonl").write_text("{}", encoding="utf-8")
    assert suite_spec(load_suite(folder / "own.yaml")).content_hash != before
