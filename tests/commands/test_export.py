"""What an export refuses before it trains, and how it says what it verified."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from sweeper.commands.export.comparison import Scored, check_scores, compared
from sweeper.commands.export.model import export_model
from sweeper.config.loading import LoadedStudy, load_study
from sweeper.foundation.errors import ConfigError, StudyChangedError, SweeperError
from sweeper.records.layout import StudyPaths
from sweeper.study.manifest import open_manifest
from tests.support.example_study import completed, example_study
from tests.support.tiny_models import make_tiny
from tests.support.tiny_studies import adder_study, adder_suite, write_yaml


def make_study(folder: Path, **changes: Any) -> LoadedStudy:
    write_yaml(folder / "selection.yaml", adder_suite("selection", 0, 4))
    write_yaml(folder / "test.yaml", adder_suite("test", 4, 8))
    return load_study(write_yaml(folder / "study.yaml", adder_study(**changes)))


def export(study: LoadedStudy, directory: Path, *, merged: bool = False) -> int:
    paths = StudyPaths(study.path.parent / "runs", study.config.study)
    return export_model(
        study, paths, example_study(), directory, arm=None, merged=merged, cache=None,
        out=Console(),
    )  # fmt: skip


def test_a_folder_that_holds_something_keeps_it(tmp_path: Path) -> None:
    kept = tmp_path / "model" / "precious.txt"
    kept.parent.mkdir()
    kept.write_text("precious", encoding="utf-8")
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    study = make_study(tmp_path)
    for name in ("model", "model/precious.txt", "link"):
        with pytest.raises(ConfigError, match="expected a new or an empty folder"):
            export(study, tmp_path / name)
    assert kept.read_text(encoding="utf-8") == "precious"
    assert not (tmp_path / "elsewhere").exists()


def test_a_place_that_cannot_be_written_is_refused_before_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = make_study(tmp_path)
    # Whoever runs the tests may write anywhere.
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)
    with pytest.raises(ConfigError, match=f"but {tmp_path} cannot be written"):
        export(study, tmp_path / "new" / "model")
    with pytest.raises(ConfigError, match=r"but .*study\.yaml cannot be written"):
        export(study, tmp_path / "study.yaml" / "model")


def test_a_model_whose_files_changed_since_the_study_is_refused(tmp_path: Path) -> None:
    student = make_tiny(tmp_path / "student")
    study = make_study(tmp_path, teacher={"model": student}, student={"model": student})
    open_manifest(study, StudyPaths(tmp_path / "runs", "tiny"), ["test"], 1)
    make_tiny(tmp_path / "student", seed=2)
    with pytest.raises(StudyChangedError, match=f"student {student}: its content changed"):
        export(study, tmp_path / "model")
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize(
    ("student", "reason"),
    [
        ({"model": "builtin/adder-student"}, "random weights"),
        ({"keep_layers": 2}, "some layers of a model"),
        ({"vocab_size": 250}, "a part of a vocabulary"),
        ({"init_kwargs": {"rms_norm_eps": 0.5}}, r"\(student\.init_kwargs\.rms_norm_eps\)"),
    ],
)
def test_an_adapter_on_weights_that_nobody_else_has_needs_merging(
    student: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    values = {"model": "org/model", "lora": {"r": 2}, **student}
    if values["model"].startswith("builtin/"):
        values["random_init"] = True
    study = make_study(tmp_path, student=values)
    with pytest.raises(ConfigError, match=f"expected --merged next to it.*{reason}"):
        export(study, tmp_path / "model")


@pytest.mark.parametrize(
    "student",
    [{"quantization": "int4"}, {"init_kwargs": {"quantization_config": {"load_in_8bit": True}}}],
)
def test_rounded_weights_are_not_merged_into(student: dict[str, Any], tmp_path: Path) -> None:
    study = make_study(tmp_path, student={"model": "org/model", "lora": {"r": 2}, **student})
    with pytest.raises(ConfigError, match="expected no --merged: the student's weights are rou"):
        export(study, tmp_path / "model", merged=True)


def scored(score: float, *documents: float, stderr: float = 0.1, **outcome: Any) -> Scored:
    found = completed(score, stderr=stderr).model_copy(update=outcome)
    rows = {("task", number, "hash"): value for number, value in enumerate(documents)}
    return Scored(found, rows)


def told(recorded: Scored, trained: Scored, written: Scored) -> str:
    return compared(recorded, trained, written, library="transformers")


SAME = scored(0.5, 0.0, 1.0)


def test_exactly_as_recorded_is_said_of_the_saved_students_documents_only() -> None:
    assert told(SAME, SAME, SAME).endswith(
        "by transformers: 0.5 on addition-select, exactly as recorded, on each of 2 documents."
    )
    swapped = scored(0.5, 1.0, 0.0)
    different = [
        ((SAME, SAME, swapped), "2 of 2 documents differ, by at most 1. The training repeated"),
        (
            (SAME, SAME, scored(0.4, 0.0, 0.8)),
            "0.4 on addition-select, where 0.5 was recorded; 1 of",
        ),
        ((scored(0.5), SAME, SAME), "the scores of its documents are not on record"),
        ((scored(0.5, 0.0, 0.0, 1.0), SAME, SAME), "the scores of its documents are not on record"),
        ((swapped, SAME, SAME), "2 of 2 documents differ, by at most 1. The training reached 0.5"),
    ]
    for outcomes, expected in different:
        text = told(*outcomes)
        assert expected in text and "exactly as recorded" not in text


def test_changed_versions_are_named_where_the_training_did_not_repeat() -> None:
    recorded = scored(0.5, 0.0, 1.0, versions={"torch": "2.9", "trl": "1.0"})
    again = scored(0.4, 0.0, 0.8, versions={"torch": "2.10", "trl": "1.0"})
    text = told(recorded, again, again)
    assert text.endswith("The training reached 0.4 this time. Versions have changed: torch.")


def test_scores_of_a_served_study_are_not_compared_with_those_of_the_saved_student() -> None:
    served = SAME.scores.model_copy(update={"engine": "vllm"})
    recorded = Scored(SAME.outcome.model_copy(update={"scores": served}), SAME.documents)
    text = told(recorded, recorded, scored(0.4, 0.0, 0.8))
    assert (
        "by transformers: 0.4 on addition-select. The study's scores are computed by vllm" in text
    )
    assert text.endswith("0.5 was recorded, and the training reached exactly that.")
    other = Scored(recorded.outcome, {**SAME.documents, ("task", 0, "hash"): 1.0})
    assert told(recorded, other, SAME).endswith("the training reached 0.5 this time.")


@pytest.mark.parametrize(
    ("trained", "written", "stderr", "fine"),
    [
        (0.5, 0.5, 0.0, True),
        (0.5, 0.45, 0.1, True),
        (0.5, 0.35, 0.1, False),
        (2.0, 2.01, 0.0, True),
        (0.0, 0.5, 0.0, False),
        (0.5, float("nan"), 0.1, False),
    ],
)
def test_a_saved_student_with_another_score_is_refused(
    trained: float, written: float, stderr: float, fine: bool
) -> None:
    one, other = (scored(value, stderr=stderr).scores for value in (trained, written))
    if fine:
        check_scores(one, other)
        return
    with pytest.raises(SweeperError, match="Nothing was written"):
        check_scores(one, other)
