"""The pair step as a job: its outcome, and the answers that it keeps for reading."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from sweeper.config.loading import load_study
from sweeper.study import pair
from sweeper.study.manifest import input_hashes
from tests.support.trial_jobs import prepare


def test_a_job_diagnoses_the_pair_of_a_study(write_study: Callable[..., Path]) -> None:
    study = load_study(write_study(warm_start={"method": "sft", "max_steps": 1}))
    outcome, files = prepare(study, pair.STEP)
    assert outcome.state == "completed" and outcome.failure is None
    assert outcome.pair is not None and outcome.device == "cpu" and outcome.versions["torch"]
    found = outcome.pair
    assert found.request == pair.pair_request(study.config, input_hashes(study))
    assert (found.seed, found.request.max_new_tokens, len(found.pairs)) == (3, 8, 1)
    assert len(found.pairs[0].prompts) == 16
    samples = [json.loads(line) for line in files.samples.read_text("utf-8").splitlines()]
    assert len(samples) == study.config.evaluation.samples
    assert set(samples[0]) == {"prompt", "student", "teacher"}
    phases = [json.loads(line)["phase"] for line in files.progress.read_text("utf-8").splitlines()]
    assert {"load the teacher", "answers of the student", "answers of the teacher"} <= {*phases}


def test_what_keeps_it_from_working_is_an_outcome(write_study: Callable[..., Path]) -> None:
    study = load_study(write_study(data={"train": {"path": "builtin/addition", "split": "no"}}))
    outcome, _ = prepare(study, pair.STEP)
    assert outcome.pair is None
    assert outcome.failure is not None and outcome.failure.kind == "bad_input"
