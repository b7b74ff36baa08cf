"""A whole study on a GPU."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("lm_eval", reason="a study needs lm-eval")
pytest.importorskip("optuna", reason="a study needs Optuna")
pytest.importorskip("mlflow", reason="a study needs MLflow")
pytest.importorskip("typer", reason="a study needs Typer")
pytest.importorskip("matplotlib", reason="a study needs Matplotlib")
pytest.importorskip("statsmodels", reason="a study needs statsmodels")
pytest.importorskip("sklearn", reason="a study needs scikit-learn")

from tests.support.whole_studies import WholeStudy

pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("default")]


def test_a_study_is_searched_and_reported(write_study: Callable[..., Path]) -> None:
    gkd = {"settings": {"lmbda": 0.5, "max_new_tokens": 8}}
    file = write_study(
        compute={"device": "cuda:0"}, trials=1, rollouts={"engine": "auto"}, arms={"gkd": gkd}
    )
    study = WholeStudy(file.parent)
    done = study.run()
    study.check(done)
    ended = study.outcomes()
    assert len(ended) == 1
    for name, outcome in ended.items():
        assert outcome is not None and outcome.state == "completed", name
        assert outcome.device == "cuda:0" and (outcome.peak_bytes or 0) > 0
        spec = json.loads(study.trials()[name].spec.read_text())
        assert spec["place"]["device"] == "cuda:0"
