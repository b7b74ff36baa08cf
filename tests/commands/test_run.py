from __future__ import annotations

from pathlib import Path

from sweeper.commands.run import tracking_store
from sweeper.config.loading import load_study
from sweeper.records.layout import StudyPaths
from tests.support.tiny_studies import ROOT


def test_runs_are_recorded_beside_the_studies_unless_told_otherwise(tmp_path: Path) -> None:
    study = load_study(ROOT / "studies" / "quickstart.yaml")
    place = tracking_store(study.config.tracking, StudyPaths(tmp_path, "quickstart"))
    assert place.uri == f"sqlite:///{tmp_path / 'mlflow.db'}"
    assert place.experiment == "quickstart"
    uri = "tracking.uri=http://127.0.0.1:5000"
    study = load_study(ROOT / "studies" / "quickstart.yaml", [uri, "tracking.experiment=mine"])
    place = tracking_store(study.config.tracking, StudyPaths(tmp_path, "quickstart"))
    assert (place.uri, place.experiment, place.artifacts) == (
        "http://127.0.0.1:5000",
        "mine",
        None,
    )
