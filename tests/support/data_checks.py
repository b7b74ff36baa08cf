"""The data step in this process: what is found of a study's data, models and suites."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sweeper.commands.check.run_checks import judge
from sweeper.config.loading import load_study
from sweeper.execution.worker.inspect_data import inspect_data
from sweeper.execution.worker.progress import ProgressWriter
from sweeper.records import DataCheck
from sweeper.records.layout import StudyPaths
from sweeper.study.manifest import open_manifest, suite_spec
from sweeper.study.preparation import make_spec, make_study_inputs
from tests.support.tiny_studies import adder_study, adder_suite, write_yaml


def inspected(study_file: Path) -> DataCheck:
    """Run a study's data step in this process."""
    study = load_study(study_file)
    paths = StudyPaths(study_file.parent / "runs", study.config.study)
    paths.directory.mkdir(parents=True, exist_ok=True)
    files = paths.preparation("data")
    files.directory.mkdir(parents=True, exist_ok=True)
    manifest = open_manifest(study, paths, ["sweeper", "check"], 1)
    inputs = make_study_inputs(study, manifest, study_file.parent / "cache")
    spec = make_spec(study, inputs, suite_spec(study.selection), "data", files)
    found = inspect_data(spec, ProgressWriter(files))["examination"]
    assert isinstance(found, DataCheck)
    return found


def study_on(folder: Path, data: str, models: dict[str, str], **changes: Any) -> Path:
    """Write a study on the data of a name in the folder, with the addition task's suites."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, first, end in (("selection", 0, 2), ("test", 2, 4)):
        write_yaml(folder / f"{name}.yaml", adder_suite(name, first, end))
    train = {"path": data, **changes.pop("train", {})}
    values = {
        **{role: {"model": path} for role, path in models.items()},
        "data": {"train": train, **changes.pop("data", {})},
        "training": {"max_length": 400, "max_steps": 2},
        **changes,
    }
    return write_yaml(folder / "study.yaml", adder_study(**values))


def write_rows(path: Path, rows: list[Any]) -> Path:
    """Write rows as JSON lines."""
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.write_text(text, encoding="utf-8")
    return path


def judged(study_file: Path) -> Any:
    """Return what check reports of a study."""
    return judge(load_study(study_file), inspected(study_file))
