"""What a trial would end with, in its arm and in what that searches: found by the data step."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sweeper.config.loading import load_study
from tests.support.trial_jobs import prepare

WriteStudy = Callable[..., Path]

HALF = {"fp16": True, "max_length": 96}
KWARGS = "teacher.init_kwargs.variant"


def choices(*values: Any) -> dict[str, Any]:
    return {"type": "categorical", "choices": list(values)}


CASES: dict[str, tuple[dict[str, Any], tuple[str, ...], str]] = {
    "half precision on a CPU": (
        {"training": HALF, "arms": {"sft": None}},
        ("arms", "sft"),
        "expected fp16: false on a CPU",
    ),
    "half precision of one arm": (
        {"arms": {"sft": None, "gkd": {"settings": {"fp16": True}}}},
        ("arms", "gkd"),
        "expected fp16: false on a CPU",
    ),
    "half precision that is searched": (
        {"arms": {"sft": {"search": {"fp16": choices(False, True)}}}},
        ("arms", "sft", "search", "fp16", "choices", "1"),
        "expected fp16: false on a CPU",
    ),
    "a warm start": (
        {"training": HALF, "warm_start": {"method": "sft", "max_steps": 2}},
        ("warm_start",),
        "expected fp16: false on a CPU",
    ),
    "files of an arm's own teacher": (
        {"arms": {"sft": None, "gkd": {"settings": {KWARGS: "fp16"}}}},
        ("arms", "gkd"),
        "model.fp16.safetensors",
    ),
    "files of a teacher that is searched": (
        {"arms": {"gkd": {"search": {KWARGS: choices("fp16", "fp32")}}}},
        ("arms", "gkd"),
        "model.fp16.safetensors",
    ),
    "files of the study's teacher": (
        {"teacher": {"model": "builtin/adder-teacher", "init_kwargs": {"variant": "fp16"}}},
        ("teacher", "model"),
        "model.fp16.safetensors",
    ),
    "late-lora-target": (
        {"student": {"model": "builtin/adder-student", "lora": {"target_modules": ["query"]}}},
        ("student", "lora", "target_modules"),
        "expected names of the student's modules",
    ),
    "layers that the student does not have": (
        {"student": {"model": "builtin/adder-student", "keep_layers": 77}},
        ("student", "keep_layers"),
        "number of layers, found 77",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_what_a_trial_would_end_with_is_refused_before_any_runs(
    write_study: WriteStudy, case: str
) -> None:
    changes, key, message = CASES[case]
    outcome, _ = prepare(load_study(write_study(**changes)), "data")
    assert outcome.examination is not None
    found = {problem.key: problem.message for problem in outcome.examination.problems}
    assert message in found[key]
