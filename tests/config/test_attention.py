"""Attentions are held against the type of the weights and the device, in every phase."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sweeper.config.attention import KNOWN
from sweeper.config.loading import load_study
from sweeper.foundation.errors import ConfigError

FLASH = {"attn_implementation": "flash_attention_2"}
LORA = {"r": 2}


def student(**changes: Any) -> dict[str, Any]:
    return {"student": {"model": "builtin/adder-student", "init_kwargs": FLASH, **changes}}


def teacher(**changes: Any) -> dict[str, Any]:
    return {"teacher": {"model": "builtin/adder-teacher", "init_kwargs": FLASH, **changes}}


def gkd(**settings: Any) -> dict[str, Any]:
    return {"arms": {"gkd": {"settings": settings}}}


def scored_in(dtype: str) -> dict[str, Any]:
    return {"evaluation": {"selection": "selection.yaml", "dtype": dtype}}


STUDENT, TEACHER = (f"{role}.init_kwargs.attn_implementation" for role in ("student", "teacher"))
WHOLE = "this model computes in float32 for training, rollouts, held-out sequences, scores"
SCORED = "this model computes in float32 for held-out sequences, scores"
FP16 = {"training": {"max_steps": 2, "fp16": True}}
BF16 = {"training": {"max_steps": 2, "bf16": True}}
FLOAT32 = {"training": {"max_steps": 2, "bf16": False}}
OWN = "teacher.init_kwargs.attn_implementation"


@pytest.mark.parametrize(
    ("changes", "place", "message"),
    [
        ({**student(), **FLOAT32}, STUDENT, WHOLE),
        ({**student(), "compute": {"device": "cpu"}}, STUDENT, "and trials run on the CPU"),
        ({**student(dtype="float32", lora=LORA), **FLOAT32}, STUDENT, WHOLE),
        *(
            ({**student(), **lower, **scored_in("float32")}, STUDENT, SCORED)
            for lower in (BF16, FP16)
        ),
        ({**student(lora=LORA), **BF16, **scored_in("float32")}, STUDENT, SCORED),
        ({**student(lora=LORA), **FLOAT32}, STUDENT, SCORED),
        ({**student(dtype="bfloat16"), **scored_in("float32")}, STUDENT, SCORED),
        ({**student(), **BF16, **gkd(bf16=False)}, STUDENT, "float32 for training, rollouts;"),
        (teacher(dtype="float32"), TEACHER, "for training, held-out sequences, scores"),
        ({**teacher(dtype="float32"), **BF16}, TEACHER, "for training, held-out"),
        ({**teacher(), **FLOAT32}, TEACHER, SCORED),
        (
            {**teacher(), **gkd(**{"teacher.dtype": "float32"}), **scored_in("bfloat16")},
            "settings.teacher.dtype",
            "float32",
        ),
        (
            {"teacher": {"model": "t", "dtype": "float32"}, **gkd(**{OWN: "flash_attention_3"})},
            f"arms.gkd.settings.{OWN}",
            "flash_attention_3 computes in 16 bits only",
        ),
        (
            {**student(dtype="bfloat16"), "compute": {"device": "cpu"}},
            STUDENT,
            "flash_attention_2 needs a GPU, and trials run on the CPU",
        ),
        (
            {
                **student(init_kwargs={"attn_implementation": "flex_attention"}),
                "compute": {"device": "cpu"},
            },
            STUDENT,
            "no gradients on a CPU",
        ),
        *(
            (student(init_kwargs={"attn_implementation": name}), STUDENT, "expected one of eager,")
            for name in ("flash", "flash_attention", "FLASH_ATTENTION_2", "paged|eager", 2, {"": 1})
        ),
        (gkd(**{OWN: "xformers"}), f"arms.gkd.settings.{OWN}", "expected one of eager, sdpa"),
    ],
)
def test_an_attention_that_a_phase_cannot_use_is_refused_at_its_place(
    write_study: Callable[..., Path], changes: dict[str, Any], place: str, message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        load_study(write_study(**changes))
    [problem] = caught.value.problems
    assert problem.path.endswith(place) and problem.line is not None
    assert message in problem.message


@pytest.mark.parametrize(
    "changes",
    [
        student(dtype="bfloat16"),
        student(dtype="float16", lora=LORA),
        # By default, on a GPU.
        student(),
        teacher(),
        # Trained and scored in autocast.
        {**student(), **BF16},
        {**student(), **FP16},
        # What is stored is known once the model's configuration is read.
        {**student(lora=LORA), **BF16},
        {**teacher(), **scored_in("bfloat16")},
        {**teacher(dtype="bfloat16"), **BF16},
        *(student(init_kwargs={"attn_implementation": name}) for name in (None, "sdpa", "eager")),
        student(init_kwargs={"attn_implementation": "flex_attention"}),
    ],
)
def test_other_attentions_are_used(
    write_study: Callable[..., Path], changes: dict[str, Any]
) -> None:
    load_study(write_study(**changes))


def test_the_known_attentions_are_those_of_transformers_that_trials_can_use() -> None:
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    theirs = {name for name in ALL_ATTENTION_FUNCTIONS.valid_keys() if "|" not in name}
    assert set(KNOWN) == (theirs - {"sweeper_fused"}) | {"eager"}
