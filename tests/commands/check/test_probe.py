"""``sweeper check --probe``: the pair, a few real steps of each arm, and what the study takes."""

from __future__ import annotations

import json
import os
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sweeper.records.outcome_files import read_outcome
from tests.support.whole_studies import WholeStudy, leftovers, wait_beside

pytestmark = pytest.mark.slow

ARMS: dict[str, Any] = {
    "gkd": {"settings": {"max_new_tokens": 8}},
    "sft": {"search": {"learning_rate": {"type": "float", "low": 1e-4, "high": 1e-2}}},
}


PAIR = {
    "tiny",
    "tiny/preparation",
    "tiny/preparation/pair",
    *(
        f"tiny/preparation/pair/{name}"
        for name in ("spec.json", "outcome.json", "log.txt", "samples.jsonl")
    ),
}
"""What a probe records with a study."""


@pytest.fixture
def study(
    write_study: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> Iterator[WholeStudy]:
    """A study with a folder for temporary files, whose path is short enough for sockets."""
    changes: dict[str, Any] = {"arms": ARMS, "confirm": {"seeds": 3}, "compare_at": ["steps"]}
    with tempfile.TemporaryDirectory() as temporary:
        monkeypatch.setenv("TMPDIR", temporary)
        yield WholeStudy(write_study(**changes).parent)


def left_behind(study: WholeStudy) -> list[str]:
    """What is there beside the study's files, the cache, and the recorded diagnosis."""
    names = {path.name for path in study.directory.iterdir()}
    known = {"study.yaml", "selection.yaml", "test.yaml", "cache"}
    # The libraries keep files of their own there.
    probes = Path(os.environ["TMPDIR"]).glob("*sweeper*")
    recorded = {"runs"} if names >= {"runs"} else set()
    if recorded:
        runs = study.directory / "runs"
        assert {str(path.relative_to(runs)) for path in runs.rglob("*")} <= PAIR
    return (
        sorted(names - known - recorded)
        + [str(path) for path in probes]
        + leftovers(study.directory)
    )


def test_a_probe_measures_every_arm_and_leaves_nothing_behind(study: WholeStudy) -> None:
    done = study.run("--probe", "--cache-dir", "cache", "--json", command="check")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    estimate = found["estimate"]
    assert estimate["workers"] == 1
    assert [phase["name"] for phase in estimate["phases"]] == [
        *("preparation", "search", "confirmation", "test scoring")
    ]
    gkd, sft = estimate["arms"]
    assert (gkd["lightest"], gkd["heaviest"]) == ({"lmbda": 0.0}, {"lmbda": 1.0})
    assert (gkd["trials"], sft["trials"], gkd["trainings"]) == (1, 2, 3)
    for arm in (gkd, sft):
        assert arm["step_seconds"] > 0 and arm["scoring_seconds"] > 0
        assert arm["tokens_per_second"] > 0
        assert arm["peak_bytes"] > 2**27, "torch alone takes more"
        # Four steps of four sequences, and scoring twelve documents.
        assert arm["trial_seconds"] >= 4 * arm["step_seconds"] + arm["scoring_seconds"]
    assert sum(gkd["trial_range"]) / 2 == pytest.approx(gkd["trial_seconds"])
    assert sft["trial_range"] == [sft["trial_seconds"], sft["trial_seconds"]]
    assert estimate["wall_seconds"] == pytest.approx(estimate["device_hours"] * 3600)
    assert left_behind(study) == []
    assert "probes" in done.stderr, "it says how far it is"

    [pair] = found["pairs"]
    assert (pair["teacher"], pair["prompts"], pair["max_new_tokens"]) == (
        *("builtin/adder-teacher", 16, 8),
    )
    rows = {finding["what"]: finding for finding in found["findings"]}
    assert "it tells little here" in rows["shared top 16"]["advice"], "of 18 tokens"
    assert rows["student's answers"]["state"] == "ok"
    recorded = read_outcome(study.paths.preparation("pair"))
    assert recorded is not None and recorded.pair is not None
    assert recorded.device == "cpu" and recorded.versions["torch"]
    assert recorded.pair.seed == 3
    samples = study.paths.preparation("pair").samples.read_text(encoding="utf-8").splitlines()
    assert len(samples) == 2 and set(json.loads(samples[0])) == {"prompt", "student", "teacher"}


@pytest.mark.soak
def test_a_probe_that_fails_keeps_the_diagnosis_and_a_run_reports_it(study: WholeStudy) -> None:
    done = study.run("--probe", "--cache-dir", "cache", command="check")
    assert done.returncode == 0, done.stderr
    recorded = read_outcome(study.paths.preparation("pair"))
    assert recorded is not None
    fails = "training.learning_rate=1.0e30"
    failing = study.run("--probe", "--cache-dir", "cache", "--set", fails, command="check")
    assert failing.returncode == 2
    text = " ".join(failing.stdout.split())
    assert "✗ time" in text and "diverged" in text and "Traceback" not in failing.stderr
    assert "shared top 16" in text, "what was measured before the failure is shown"
    assert left_behind(study) == []
    again = read_outcome(study.paths.preparation("pair"))
    assert again == recorded, (
        "the learning rate does not matter to the pair: it is not sampled again"
    )

    run = study.run("--set", "trials=1", "--set", "confirm.seeds=0")
    study.check(run)
    assert "The pair before training" in run.stdout
    assert "## The pair before training" in (
        study.directory / "reports" / "tiny" / "report.md"
    ).read_text(encoding="utf-8")
    [parent] = [r for r in study.mlflow_runs() if r.data.tags["sweeper.kind"] == "study"]
    assert "pair/student_answers/divergence" in parent.data.metrics


@pytest.mark.soak
def test_a_probe_that_is_interrupted_leaves_nothing_behind(study: WholeStudy) -> None:
    process = study.start("--probe", "--cache-dir", "cache", command="check")
    trials = "*/tiny/arms/*/*/progress.jsonl"
    wait_beside(process, lambda: any(Path(os.environ["TMPDIR"]).glob(trials)))
    os.kill(process.pid, signal.SIGINT)
    done = study.end(process)
    assert done.returncode == 130
    assert "Traceback" not in done.stderr
    assert left_behind(study) == []
