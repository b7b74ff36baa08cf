"""What a trial would end with, in its arm and in what that searches: found by the data step."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sweeper.config.loading import load_study
from sweeper.config.models import StudentConfig
from sweeper.config.settings import MethodSettings
from sweeper.distillation.models.loadable import check_loadable
from sweeper.distillation.rehearsal import rehearse
from sweeper.foundation.errors import BadInputError
from sweeper.records import Rehearsal
from tests.support.trial_jobs import prepare

KWARGS = "teacher.init_kwargs.variant"


def choices(*values: Any) -> dict[str, Any]:
    return {"type": "categorical", "choices": list(values)}


HALF_PRECISION = "expected fp16: false on a CPU"
FILES = "model.fp16.safetensors"
CASES: dict[str, tuple[dict[str, Any], dict[tuple[str, ...], str]]] = {
    "arms": (
        {
            "arms": {
                "half": {"method": "sft", "settings": {"fp16": True}},
                "searched": {"method": "sft", "search": {"fp16": choices(False, True)}},
                "own-teacher": {"method": "gkd", "settings": {KWARGS: "fp16"}},
                "searched-teacher": {"method": "gkd", "search": {KWARGS: choices("fp16", "x")}},
                "sound": {"method": "sft"},
            }
        },
        {
            ("arms", "half"): HALF_PRECISION,
            ("arms", "searched", "search", "fp16", "choices", "1"): HALF_PRECISION,
            ("arms", "own-teacher"): FILES,
            ("arms", "searched-teacher"): FILES,
        },
    ),
    "what all arms share": (
        {
            "teacher": {"model": "builtin/adder-teacher", "init_kwargs": {"variant": "fp16"}},
            "student": {"model": "builtin/adder-student", "keep_layers": 77},
            "training": {"fp16": True, "max_length": 96},
            "warm_start": {"method": "sft", "max_steps": 2},
            "arms": {"sft": None},
        },
        {
            ("teacher", "model"): FILES,
            ("student", "keep_layers"): "number of layers, found 77",
            ("arms", "sft"): HALF_PRECISION,
            ("warm_start",): HALF_PRECISION,
        },
    ),
    "more-tokens-than-the-vocabulary-has": (
        {
            "arms": {
                "fixed": {
                    "method": "gkd",
                    "settings": {"teacher_signal": "top_k", "teacher_top_k": 19},
                },
                "default": {"method": "supervised_kd", "settings": {"teacher_signal": "top_k"}},
                "signals": {
                    "method": "gkd",
                    "search": {
                        "teacher_signal": choices("exact", "top_k"),
                        "teacher_top_k": choices(4, 18, 40),
                    },
                },
                "range": {
                    "method": "gkd",
                    "settings": {"teacher_signal": "top_k"},
                    "search": {"teacher_top_k": {"type": "int", "low": 1, "high": 50_000}},
                },
            }
        },
        {
            ("arms", "fixed", "settings", "teacher_top_k"): "expected at most 18, the tokens",
            ("arms", "signals", "search", "teacher_top_k", "choices", "2"): "found 40",
            ("arms", "range", "search", "teacher_top_k", "high"): "found 50,000",
        },
    ),
    "DoRA on int8": (
        {
            "student": {
                "model": "builtin/adder-student",
                "quantization": "int8",
                "lora": {"r": 4},
            },
            "arms": {
                "searched": {"method": "sft", "search": {"lora.use_dora": choices(False, True)}},
                "sound": {"method": "sft"},
            },
        },
        {("arms", "searched", "search", "lora.use_dora", "choices", "1"): "scales of int8"},
    ),
    "late-lora-target": (
        {"student": {"model": "builtin/adder-student", "lora": {"target_modules": ["query"]}}},
        {("student", "lora", "target_modules"): "expected names of the student's modules"},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_what_a_trial_would_end_with_is_refused_before_any_runs(
    write_study: Callable[..., Path], case: str
) -> None:
    changes, expected = CASES[case]
    outcome, _ = prepare(load_study(write_study(**changes)), "data")
    assert outcome.examination is not None
    found = {problem.key: problem.message for problem in outcome.examination.problems}
    assert found.keys() == expected.keys()
    for key, message in expected.items():
        assert message in found[key]


def test_devices_of_a_cluster_are_not_looked_for_here(tmp_path: Path) -> None:
    student = StudentConfig(model="builtin/adder-student")
    settings = MethodSettings(fp16=True, max_length=96)
    trial = Rehearsal(key=("arms", "sft"), method="sft", settings=settings)
    place = {"device": "cpu", "directory": str(tmp_path)}
    with pytest.raises(BadInputError, match=HALF_PRECISION):
        rehearse(trial, student, **place)
    rehearse(trial, student, **place, elsewhere=True)
    there = student.model_copy(update={"init_kwargs": {"device_map": "cuda:77"}})
    with pytest.raises(BadInputError, match="devices of this machine"):
        check_loadable(there)
    assert check_loadable(there, elsewhere=True) is None
