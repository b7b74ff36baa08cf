"""The precision that a study takes from its devices: what the user wrote wins."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest

from sweeper.config.device_defaults import (
    CPU,
    DeviceKind,
    cannot,
    device_defaults,
    on_any_device,
    with_defaults,
)
from sweeper.config.settings import resolve
from sweeper.config.study import StudyConfig

H200 = DeviceKind("cuda", "NVIDIA H200", 9.0)
A100 = DeviceKind("cuda", "NVIDIA A100", 8.0)
V100 = DeviceKind("cuda", "Tesla V100", 7.0)
T4 = DeviceKind("cuda", "Tesla T4", 7.5)
SILENT = DeviceKind("cuda", "GPU")
MPS = DeviceKind("mps", "MPS")

FAST = {"bf16": True, "tf32": True, "optim": "adamw_torch_fused"}
EITHER = {"type": "categorical", "choices": [False, True]}
EXACT = {"bf16": False, "tf32": False, "optim": "adamw_torch"}


def study(**changes: Any) -> StudyConfig:
    values = {
        "study": "mine",
        "teacher": {"model": "teacher"},
        "student": {"model": "student"},
        "data": {"train": {"path": "rows.jsonl"}},
        "arms": {"gkd": {}, "sft": {}},
        "evaluation": {"selection": "selection.yaml"},
        **changes,
    }
    return StudyConfig.model_validate(values)


@pytest.mark.parametrize(
    ("kinds", "expected", "device"),
    [
        ([H200], FAST, "NVIDIA H200 (compute capability 9.0)"),
        ([A100], FAST, "NVIDIA A100 (compute capability 8.0)"),
        ([DeviceKind("cuda", "B200", 10.0), H200], FAST, "NVIDIA H200 (compute capability 9.0)"),
        ([T4], EXACT, "Tesla T4 (compute capability 7.5)"),
        # Every arm gets the same, wherever its trials run.
        ([H200, V100], EXACT, "Tesla V100 (compute capability 7.0)"),
        ([H200, SILENT], EXACT, "GPU (compute capability unknown)"),
        ([CPU], EXACT, "CPU"),
        ([MPS], EXACT, "MPS"),
    ],
)
def test_the_least_capable_kind_of_device_decides(
    kinds: list[DeviceKind], expected: dict[str, Any], device: str
) -> None:
    found = device_defaults(study(), kinds)
    assert (found.training, found.device) == (expected, device)


WRITTEN = [
    {},
    {"bf16": False},
    {"bf16": True},
    {"fp16": True},
    {"tf32": False},
    {"tf32": True},
    {"optim": "adamw_torch"},
    {"optim": "adafactor"},
    {"bf16": False, "tf32": True, "optim": "sgd"},
]


@pytest.mark.parametrize(
    ("written", "kinds"), [*product(WRITTEN, ([H200], [V100], [CPU], [MPS], [H200, T4]))]
)
def test_what_the_user_wrote_wins_on_every_device(
    written: dict[str, Any], kinds: list[DeviceKind]
) -> None:
    """In ``training`` for all arms, in an arm's settings for the arm."""
    config = study(training=written)
    resolved = with_defaults(config, device_defaults(config, kinds))
    assert resolved.training.model_dump() | written == resolved.training.model_dump()
    assert not (resolved.training.bf16 and resolved.training.fp16)
    config = study(arms={"gkd": {"settings": written}, "sft": {}})
    resolved = with_defaults(config, device_defaults(config, kinds))
    settings = resolve(resolved.training, resolved.arms["gkd"].settings)
    assert settings.model_dump() | written == settings.model_dump()
    assert not (settings.bf16 and settings.fp16)


@pytest.mark.parametrize(
    "changes",
    [
        {"training": {"fp16": True}},
        {"arms": {"gkd": {"settings": {"fp16": True}}, "sft": {}}},
        {"arms": {"gkd": {"search": {"fp16": EITHER}}, "sft": {}}},
        {"student": {"model": "student", "dtype": "float16", "lora": {"r": 8}}},
    ],
)
def test_a_study_in_float16_stays_in_it_in_every_arm(changes: dict[str, Any]) -> None:
    found = device_defaults(study(**changes), [H200]).training
    assert found == {**FAST, "bf16": False}


def test_an_arm_may_search_what_the_others_take_from_the_devices() -> None:
    config = study(arms={"gkd": {"search": {"bf16": EITHER}}, "sft": {}})
    resolved = with_defaults(config, device_defaults(config, [H200]))
    assert resolve(resolved.training, resolved.arms["sft"].settings).bf16
    for value in (False, True):
        params = {"bf16": value}
        assert resolve(resolved.training, resolved.arms["gkd"].settings, params).bf16 is value


def test_what_was_taken_reads_as_if_it_had_been_written() -> None:
    config = study()
    resolved = with_defaults(config, device_defaults(config, [H200]))
    written = study(training=FAST)
    assert resolved == written and resolved.scoring_dtype() == "bfloat16"
    assert resolved.model_dump(exclude_unset=True)["training"] == FAST
    # Once taken, no other device changes it.
    assert device_defaults(resolved, [CPU]).training == {}


@pytest.mark.parametrize(
    ("training", "kinds", "keys"),
    [
        (FAST, [H200], ()),
        (FAST, [CPU], ("training.tf32",)),
        (FAST, [MPS], ("training.tf32",)),
        (FAST, [H200, V100], ("training.bf16", "training.tf32")),
        (FAST, [SILENT], ()),
        (EXACT, [CPU, V100], ()),
    ],
)
def test_what_a_device_cannot_compute_is_named_by_its_key(
    training: dict[str, Any], kinds: list[DeviceKind], keys: tuple[str, ...]
) -> None:
    assert cannot(study(training=training), kinds) == keys


@pytest.mark.parametrize(
    ("compute", "bf16"),
    [
        ({}, True),
        ({"device": "cuda"}, True),
        ({"device": "cuda:1"}, True),
        ({"device": "cpu"}, False),
        ({"device": "mps"}, False),
        ({"resources_per_trial": {"gpu": 0}}, False),
    ],
)
def test_a_file_is_judged_by_the_best_device_that_it_may_get(
    compute: dict[str, Any], bf16: bool
) -> None:
    assert on_any_device(study(compute=compute)).training.bf16 is bf16
