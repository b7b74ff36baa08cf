"""The engines step: what samples a study's rollouts, and studies that cannot have what they ask."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sweeper.config.loading import load_study
from sweeper.foundation.errors import ConfigError
from sweeper.records.layout import StudyPaths
from sweeper.study import preparation
from sweeper.study.engines import engine_request
from sweeper.study.manifest import read_manifest
from sweeper.study.preparation_order import preparation_order
from tests.support.tiny_models import make_tiny
from tests.support.trial_jobs import prepare

Write = Callable[..., Path]
GKD: dict[str, Any] = {"gkd": {"settings": {"lmbda": 1.0, "max_new_tokens": 8}}}
LORA = {
    "model": "builtin/adder-student",
    "lora": {"r": 2, "alpha": 4, "target_modules": "all-linear"},
}


@pytest.mark.slow
@pytest.mark.parametrize("student", ["builtin/adder-student", LORA])
def test_auto_takes_the_fastest_that_passes(write_study: Write, student: Any) -> None:
    if isinstance(student, str):
        student = {"model": student}
    study = load_study(write_study(rollouts={"engine": "auto"}, arms=GKD, student=student))
    outcome, _ = prepare(study, "engines")
    assert outcome.state == "completed", outcome.failure
    choice = outcome.engines
    assert choice is not None
    tests = {test.engine: test for test in choice.tests}
    speeds = {name: test.tokens_per_second or 0.0 for name, test in tests.items()}
    assert choice.chosen == max(speeds, key=lambda name: speeds[name])
    assert tests["sweeper"].problem is tests["transformers"].problem is None
    assert tests["transformers"].logprob_diff is not None
    assert "no server" in str(tests["vllm"].problem)
    [note] = outcome.notes
    assert note == choice.told()
    assert note.startswith(f"rollouts are sampled by {choice.chosen}: sweeper ")
    assert "vllm left out: no server" in note
    paths = StudyPaths(study.path.parent / "runs", study.config.study)
    manifest = read_manifest(paths)
    assert manifest is not None
    inputs = preparation.make_study_inputs(study, manifest, study.path.parent / "cache")
    assert inputs.rollout_engine == "sweeper"
    chosen = preparation.with_results(inputs, ["engines"], paths)
    assert chosen.rollout_engine == choice.chosen


def test_the_test_samples_the_largest_step_of_the_arms(write_study: Write) -> None:
    arms = {
        "small": {"method": "gkd", "settings": {"lmbda": 1.0, "max_new_tokens": 8}},
        "large": {
            "method": "gkd",
            "settings": {"gradient_accumulation_steps": 4, "temperature": 0.7},
            "search": {
                "lmbda": {"type": "categorical", "choices": [0.0, 0.5]},
                "max_new_tokens": {"type": "int", "low": 4, "high": 16},
            },
        },
        "sft": {},
    }
    study = load_study(write_study(rollouts={"engine": "auto"}, arms=arms))
    request = engine_request(study.config)
    assert request is not None
    assert (request.arm, request.prompts, request.batch_size) == ("large", 8, 8)
    assert (request.settings.max_new_tokens, request.settings.temperature) == (16, 0.7)
    assert request.candidates == ("sweeper", "transformers", "vllm")
    order = preparation_order(study.config, students_served=False)
    assert order["engines"] == ("data", "teacher", "student"), "it is timed, so it is alone"


@pytest.mark.parametrize(
    ("changes", "candidates"),
    [
        ({}, None),
        ({"rollouts": {"engine": "sweeper"}}, None),
        ({"rollouts": {"engine": "vllm"}}, None),
        ({"rollouts": {"engine": "transformers"}}, ("transformers",)),
        ({"rollouts": {"engine": "auto"}, "compute": {"devices_per_trial": 2}},
         ("sweeper", "vllm")),
    ],
)  # fmt: skip
def test_what_is_tested_follows_the_study_file(
    write_study: Write, changes: dict[str, Any], candidates: tuple[str, ...] | None
) -> None:
    config = load_study(write_study(arms=GKD, **changes)).config
    request = engine_request(config)
    assert (None if request is None else request.candidates) == candidates
    assert ("engines" in preparation_order(config, students_served=False)) is (
        candidates is not None
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"arms": {"sft": {}}, "rollouts": {"engine": "auto"}}, "has no effect without an arm"),
        ({"arms": {"gkd": {"settings": {"lmbda": 0.0}}}, "rollouts": {"engine": "sweeper"}},
         "has no effect without an arm"),
        ({"arms": GKD, "training": {"engine": "trl"}, "rollouts": {"engine": "transformers"}},
         "has no effect with training.engine"),
        ({"arms": GKD, "rollouts": {"engine": "transformers"}, "compute": {"devices_per_trial": 2}},
         "expected sweeper or vllm"),
    ],
)  # fmt: skip
def test_an_engine_that_cannot_sample_is_refused_at_its_key(
    write_study: Write, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError) as error:
        load_study(write_study(**changes))
    [problem] = [p for p in error.value.problems if p.message.startswith(message)]
    assert problem.path == "rollouts.engine"


def test_a_student_that_it_cannot_run_is_found_in_the_data_step(
    write_study: Write, tmp_path: Path
) -> None:
    folder = make_tiny(tmp_path / "gemma2", "gemma2")
    models = {"teacher": {"model": folder}, "student": {"model": folder}}
    file = write_study(arms=GKD, rollouts={"engine": "transformers"}, **models)
    outcome, _ = prepare(load_study(file), "data")
    assert outcome.examination is not None
    problems = {p.key: p.message for p in outcome.examination.problems}
    assert "attn_logit_softcapping" in problems["rollouts", "engine"]
