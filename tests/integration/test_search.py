"""Pruning, several objectives and budgets, through the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest

from tests.support.study_folders import (
    documents,
    outcomes,
    params,
    run,
    scores,
    sweeper,
    trial_runs,
)
from tests.support.tiny_studies import adder_study

pytestmark = pytest.mark.slow

WriteStudy = Callable[..., Path]
SFT: dict[str, Any] = {
    "sft": {
        "search": {"learning_rate": {"type": "float", "low": 1e-5, "high": 3e-2, "log": True}},
    },
    "gkd": {"settings": {"max_new_tokens": 8}},
}


def told(directory: Path, arm: str) -> list[optuna.trial.FrozenTrial]:
    storage = f"sqlite:///{directory / 'runs' / 'tiny' / 'study.db'}"
    return optuna.load_study(study_name=f"tiny/{arm}", storage=storage).trials


@pytest.mark.soak
def test_trials_are_pruned_and_told_as_such(write_study: WriteStudy) -> None:
    pruner = {"type": "median", "at": [0.25, 0.5], "documents": 6, "startup_trials": 1}
    study = write_study(trials=5, arms=SFT, pruner=pruner)
    done = run(study)
    directory = study.parent
    assert done.returncode == 0, done.stderr
    ended = outcomes(directory)
    early = [name for name, outcome in ended.items() if outcome["state"] == "pruned"]
    assert len(ended) == 6
    assert 1 <= len(early) <= 4
    for name in early:
        assert name.startswith("sft")
        assert ended[name]["cost"]["steps"] in (1, 2)
        assert ended[name]["scores"] is None
        assert name not in documents(directory)
    assert ended["gkd/0000"]["cost"]["steps"] == 4

    for trial in told(directory, "sft"):
        state = "PRUNED" if f"sft/{trial.number:04d}" in early else "COMPLETE"
        assert (trial.state.name, set(trial.intermediate_values)) in (
            (state, {0}),
            (state, {0, 1}),
        )
    runs = trial_runs(directory)
    assert [found.info.status for found in runs] == ["FINISHED"] * 6
    states = [found.data.tags["sweeper.state"] for found in runs]
    assert sorted(states) == ["completed"] * (6 - len(early)) + ["pruned"] * len(early)
    interim = [found for found in runs if "score/interim" in found.data.metrics]
    assert len(interim) == 5

    found = json.loads(sweeper(directory, "report", study.name, "--json").stdout)
    assert found["arms"]["sft"]["trials"]["pruned"] == len(early)
    report = (directory / "reports" / "tiny" / "report.md").read_text()
    assert f"{5 - len(early)}/{len(early)}/0" in report
    assert "ok/pruned/failed" in done.stdout
    assert f"{len(early)} pruned" in sweeper(directory, "status", study.name).stdout


@pytest.mark.soak
def test_with_a_pruner_that_prunes_nothing_the_scores_are_those_without(
    write_study: WriteStudy, tmp_path: Path
) -> None:
    study = write_study()
    assert run(study).returncode == 0
    alone, sampled, answers = scores(tmp_path), params(tmp_path), documents(tmp_path)
    (tmp_path / "runs").rename(tmp_path / "without")
    write_study(pruner={"type": "asha", "at": [0.25, 0.75], "startup_trials": 100})
    done = run(study)
    assert done.returncode == 0, done.stderr
    assert (scores(tmp_path), params(tmp_path)) == (alone, sampled)
    assert documents(tmp_path) == answers
    assert all(set(trial.intermediate_values) == {1, 3} for trial in told(tmp_path, "gkd"))


@pytest.mark.soak
def test_several_objectives_give_a_front(write_study: WriteStudy) -> None:
    study = write_study(trials=3, objectives=["score", "generated_tokens"])
    done = run(study)
    directory = study.parent
    assert done.returncode == 0, done.stderr
    for trial in told(directory, "gkd"):
        outcome = outcomes(directory)[f"gkd/{trial.number:04d}"]
        assert trial.values == [outcome["scores"]["score"], outcome["cost"]["generated_tokens"]]
    found = json.loads(sweeper(directory, "report", study.name, "--json").stdout)
    front = found["arms"]["gkd"]["pareto_front"]
    assert front
    best = max(outcome["scores"]["score"] for outcome in outcomes(directory).values())
    assert front[0]["values"]["score"] <= best
    cheapest = min(trial.values[1] for trial in told(directory, "gkd"))
    assert min(point["values"]["generated_tokens"] for point in front) == cheapest
    assert "Pareto fronts" in done.stdout
    assert "## Pareto fronts" in (directory / "reports" / "tiny" / "report.md").read_text()


@pytest.mark.soak
def test_a_budget_that_is_spent_ends_the_search_and_more_of_it_continues(
    write_study: WriteStudy,
) -> None:
    arms = {**SFT, "gkd": {**adder_study()["arms"]["gkd"], "trials": 2}}
    study = write_study(trials=4, arms=arms, budget={"trials": 3})
    directory = study.parent
    assert run(study).returncode == 0
    assert set(outcomes(directory)) == {"gkd/0000", "gkd/0001", "sft/0000"}
    # Hardly any time is left for the others, which is known from those before.
    write_study(trials=4, arms=arms, budget={"wall_time": "0.01s"})
    done = run(study)
    assert done.returncode == 0, done.stderr
    assert set(outcomes(directory)) == {"gkd/0000", "gkd/0001", "sft/0000"}
    assert "wall time" in done.stdout
    found = json.loads(sweeper(directory, "report", study.name, "--json").stdout)
    assert found["arms"]["sft"]["stopped"] == "wall_time"
    write_study(trials=4, arms=arms)
    assert run(study).returncode == 0
    assert len(outcomes(directory)) == 6
    assert {found.info.status for found in trial_runs(directory)} == {"FINISHED"}


@pytest.mark.soak
def test_a_study_starts_with_the_best_of_an_earlier_one(write_study: WriteStudy) -> None:
    gkd = adder_study()["arms"]["gkd"]
    given = {"lmbda": 0.0, "beta": 1}
    study = write_study(trials=1, arms={"gkd": gkd | {"start_with": given}})
    directory = study.parent
    assert run(study).returncode == 0
    study.rename(directory / "pilot.yaml")
    (directory / "runs" / "tiny").rename(directory / "pilot")

    arms = {"gkd": gkd | {"start_with": {"study": "pilot"}}, "sft": SFT["sft"]}
    done = run(write_study(trials=2, arms=arms))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "given settings in gkd, none in sft" in done.stdout
    assert params(directory)["gkd/0000"] == {"lmbda": 0.0, "beta": 1.0}
    attributes = [trial.user_attrs.get("sweeper:start_with") for trial in told(directory, "gkd")]
    assert attributes == ["tiny gkd #0", None]
    tags = [found.data.tags.get("sweeper.start_with") for found in trial_runs(directory)]
    assert sorted(filter(None, tags)) == ["the study file", "tiny gkd #0"]
    report = (directory / "reports" / "tiny" / "report.md").read_text()
    assert "gkd #0 from tiny gkd #0" in report
    found = json.loads(sweeper(directory, "report", study.name, "--json").stdout)
    assert found["arms"]["gkd"]["start_with"]["0"]["trial"] == 0
    # The earlier study may go; a changed start is another study.
    (directory / "pilot").rename(directory / "gone")
    assert run(study).returncode == 0
    refused = run(study, "--set", "arms.gkd.start_with=[]")
    assert refused.returncode == 2
    assert "arms.gkd.start_with: was" in refused.stderr
