"""Winners trained again: real studies, killed and continued, to their verdict."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mlflow.tracking import MlflowClient

from sweeper.records.study_record import Plan
from sweeper.study.manifest import read_manifest
from sweeper.study.results import read_study
from tests.support.whole_studies import WholeStudy, wait_until

pytestmark = pytest.mark.slow


def finals(study: WholeStudy) -> dict[str, dict[str, object]]:
    """How each winner ended, by its directory below ``finals``."""
    root = study.paths.directory / "finals"
    found = {}
    for path in sorted(root.glob("*/*/outcome.json")):
        outcome = json.loads(path.read_text())
        name = str(path.parent.relative_to(root))
        found[name] = {
            "state": outcome["state"],
            "selection": outcome["scores"]["score"],
            "test": outcome["test_scores"]["score"],
            "documents": (path.parent / "test_documents.jsonl").read_text(),
        }
    return found


CONFIRMED: dict[str, Any] = {
    "trials": 1,
    "confirm": {"seeds": 2},
    "compare_at": ["steps"],
    "margin": 0.9,
}


def test_winners_are_trained_again_and_judged(write_study: Callable[..., Path]) -> None:
    study = WholeStudy(write_study(**CONFIRMED).parent)
    study.check(study.run())
    whole = finals(study)
    assert list(whole) == ["gkd/0000", "gkd/0001", "sft/0000", "sft/0001"]
    assert {final["state"] for final in whole.values()} == {"completed"}

    told = study.run("--json", command="report")
    found = json.loads(told.stdout)
    [pair] = found["verdicts"]
    assert (pair["arm"], pair["against"], pair["seeds"]) == ("gkd", "sft", 2)
    assert pair["documents"] == 8
    assert pair["sentence"][1:] in found["verdict"]
    means = [whole[f"gkd/{seed:04d}"]["test"] for seed in range(2)]
    assert found["arms"]["gkd"]["test"]["mean"] == pytest.approx(sum(means) / 2)  # type: ignore[arg-type]
    assert found["verdict"] in (study.directory / "reports" / "tiny" / "report.md").read_text()

    design = json.loads(study.run("--json", command="check").stdout)["design"]
    assert (design["documents"], design["comparisons"]) == (8, 1)
    assert design["basis"].startswith("measured on the test suite")
    aside = study.paths.plan.rename(study.directory / "plan.json")
    design = json.loads(study.run("--json", command="check").stdout)["design"]
    assert "measured in the arms' best trials" in design["basis"]
    aside.rename(study.paths.plan)

    client = MlflowClient(f"sqlite:///{study.paths.mlflow}")
    experiment = client.get_experiment_by_name("tiny")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id], "tags.`sweeper.kind` = 'final'")
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert len(runs) == 4 and all("test/test" in run.data.metrics for run in runs)

    status = study.run(command="status").stdout
    assert "4 of 4 confirmation runs completed" in status
    listed = [line.split()[:5] for line in status.splitlines()]
    assert ["gkd", "#0", "2", "steps", "completed"] in listed
    snapshot = read_manifest(study.paths)
    assert snapshot is not None
    for arm in read_study(study.paths, snapshot).arms:
        for final in arm.finals:
            assert final.curve and final.curve[-1].teacher_divergence is not None
            assert final.outcome and final.outcome.rollouts
            assert (final.outcome.rollouts.on_policy_share > 0) == (arm.method == "gkd")

    # Once more: nothing is left to do, and the test suite is not read again.
    before = {path: path.stat().st_mtime_ns for path in study.paths.directory.rglob("spec.json")}
    study.check(study.run())
    after = {path: path.stat().st_mtime_ns for path in study.paths.directory.rglob("spec.json")}
    assert after == before


@pytest.mark.soak
def test_a_study_compares_what_it_declares(write_study: Callable[..., Path]) -> None:
    """Arms that differ in their teacher; and other comparisons once the test suite was read."""
    fixed = {"lmbda": 0.0, "beta": 0.0}
    changes = {
        **CONFIRMED,
        "arms": {
            "gkd": {"settings": fixed},
            "placebo": {"method": "gkd", "settings": {**fixed, "teacher.model": "student"}},
        },
        "compare": [["gkd", "placebo"], ["placebo", "start"]],
    }
    study = WholeStudy(write_study(**changes).parent, limit=600)
    study.check(study.run())
    found = json.loads(study.run("--json", command="report").stdout)
    pairs = [(pair["arm"], pair["against"], pair["comparisons"]) for pair in found["verdicts"]]
    assert pairs == [("gkd", "placebo", 2), ("placebo", "start", 2)]
    lead = found["arms"]["placebo"]["teacher_lead"]
    assert (lead["value"], lead["teacher"]) == (0.0, found["starting_student"]["score"])
    page = (study.directory / "reports" / "tiny" / "report.md").read_text(encoding="utf-8")
    assert "The teacher of placebo is not measurably better than the starting student" in page
    assert not any("exploratory" in note for note in found["verdict_notes"])

    write_study(**{**changes, "compare": [["gkd", "start"]]})
    study.check(study.run())
    found = json.loads(study.run("--json", command="report").stdout)
    assert [(pair["arm"], pair["against"]) for pair in found["verdicts"]] == [("gkd", "start")]
    assert any("exploratory" in note for note in found["verdict_notes"])


@pytest.mark.soak
def test_winners_are_the_same_however_often_the_study_is_killed(
    write_study: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> None:
    study = WholeStudy(write_study(**CONFIRMED).parent)
    study.check(study.run())
    whole = finals(study)
    # Killed while a winner trains, and once between two of them.
    second = study.copy(tmp_path_factory.mktemp("killed"))
    root = second.paths.directory / "finals"
    for moment in ("gkd/0000/progress.jsonl", "sft/0000/outcome.json"):
        process = second.start()
        wait_until(lambda: (root / moment).exists() or process.poll() is not None, moment)  # noqa: B023
        process.send_signal(signal.SIGKILL)
        second.end(process)
    second.check(second.run())
    assert finals(second) == whole
    plan = Plan.model_validate_json(second.paths.plan.read_bytes())
    assert plan.looks == 1
