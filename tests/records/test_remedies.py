"""What to change about a training that fails: in order, and only what is left to change."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sweeper.config.loading import load_study
from sweeper.config.models import LoraConfig, ModelConfig, StudentConfig
from sweeper.config.settings import MethodSettings
from sweeper.records import INTERIM_PHASE, Failure, TrialSpec
from sweeper.records.remedies import (
    Setup,
    advice,
    divergence_remedies,
    make_setup,
    memory_remedies,
    smaller_batches,
    speed_remedies,
)
from tests.support.trial_jobs import trial_spec

Spec = Callable[..., TrialSpec]


def test_the_order_is_that_of_what_costs_least() -> None:
    setup = Setup("gkd", MethodSettings(), StudentConfig(model="s"), ModelConfig(model="t"))
    assert advice(setup) == [
        "per_device_train_batch_size: 4 with gradient_accumulation_steps: 2 and"
        " rollout_batch_size: 4",
        "teacher.quantization: int8",
        "a smaller teacher.model",
        "gradient_checkpointing: true",
        "student.lora: {r: 16}",
    ]


def test_what_is_done_already_is_not_advised() -> None:
    student = StudentConfig(model="s", lora=LoraConfig())
    settings = MethodSettings(per_device_train_batch_size=1, gradient_checkpointing=True)
    assert advice(Setup("sft", settings, student, None)) == []
    teacher = ModelConfig(model="t", quantization="int8")
    told = advice(Setup("supervised_kd", settings, student, teacher))
    assert told == ["teacher.quantization: int4", "a smaller teacher.model"]


def test_a_student_that_is_on_several_devices_may_be_divided() -> None:
    setup = Setup("sft", MethodSettings(), StudentConfig(model="s"), None, devices=2)
    assert advice(setup)[-2:] == ["compute.shard_student: true", "student.lora: {r: 16}"]
    divided = replace(setup, shard_student=True)
    other = replace(setup, settings=MethodSettings(optim="adafactor"))
    for one in (divided, other):
        assert not any("shard_student" in words for words in advice(one))


def test_smaller_batches_leave_the_optimiser_step_as_it_is() -> None:
    settings = MethodSettings(per_device_train_batch_size=12, gradient_accumulation_steps=3)
    sizes = [
        (change.setup.settings.per_device_train_batch_size, change.setup.settings)
        for change in smaller_batches(Setup("sft", settings, StudentConfig(model="s"), None))
    ]
    assert [rows for rows, _ in sizes] == [6, 4, 3, 2, 1]
    assert all(rows * one.gradient_accumulation_steps == 36 for rows, one in sizes)


@pytest.fixture
def spec(write_study: Callable[..., Path]) -> Spec:
    def make(method: str, device: str = "cpu", **changes: Any) -> TrialSpec:
        studies = {name: changes.pop(name) for name in ("teacher", "student") if name in changes}
        arms = {method: {"settings": changes}}
        made = trial_spec(load_study(write_study(arms=arms, **studies)), method)
        return made.model_copy(update={"place": made.place.model_copy(update={"device": device})})

    return make


def test_a_start_as_teacher_is_loaded_as_the_student_is() -> None:
    student = StudentConfig(model="s", init_kwargs={"a": 1})
    teacher = ModelConfig(model="t", revision="r", dtype="bfloat16", vocab_size=9)
    places = {"lora": {}, "devices": 1, "shard_student": False}
    for own, expected in (
        ({}, teacher),
        ({"model": "student"}, ModelConfig(model="s", init_kwargs={"a": 1}, dtype="float32")),
        (
            {"model": "student", "dtype": "bfloat16"},
            ModelConfig(model="s", init_kwargs={"a": 1}, dtype="bfloat16"),
        ),
        # A revision and padding are the study's teacher's.
        ({"model": "u"}, ModelConfig(model="u", dtype="bfloat16")),
    ):
        setup = make_setup("gkd", MethodSettings(), student, teacher, own=own, **places)
        assert setup.teacher == expected


def test_a_diverged_training_is_told_what_is_not_done_yet(spec: Spec) -> None:
    assert divergence_remedies(spec("gkd", disable_dropout=False, max_grad_norm=0)) == (
        "a lower learning_rate",
        "a higher warmup_ratio",
        "max_grad_norm: 1.0",
        "disable_dropout: true",
        "another beta",
    )
    noisy = spec("gkd", lmbda=1.0, teacher_signal="sampled")
    assert divergence_remedies(noisy)[-1] == "teacher_signal: exact"
    # Its divergence is fixed.
    assert divergence_remedies(spec("supervised_kd")) == (
        "a lower learning_rate",
        "a higher warmup_ratio",
    )


def test_a_slow_training_is_told_what_would_make_it_faster(spec: Spec) -> None:
    once = "an arm seqkd, which asks the teacher once"
    fused = "the model's default attention (without attn_implementation: eager)"
    slow = spec("gkd", "cuda:0", gradient_accumulation_steps=4, rollout_batch_size=2)
    assert speed_remedies(slow, "train") == (
        "a lower max_new_tokens",
        "a larger per_device_train_batch_size with fewer gradient_accumulation_steps, if memory"
        " allows it",
        "a larger rollout_batch_size",
        "teacher.compile: true",
        "fewer max_steps",
        once,
    )
    off_policy = speed_remedies(spec("gkd", lmbda=0.0), "train")
    assert off_policy == ("teacher.compile: true", "fewer max_steps", once)
    assert speed_remedies(spec("sft"), "train") == ("fewer max_steps",)
    quick = {"model": "builtin/adder-teacher", "compile": True}
    eager = {"model": "builtin/adder-student", "init_kwargs": {"attn_implementation": "eager"}}
    assert fused in speed_remedies(spec("gkd", "cuda:0", teacher=quick, student=eager), "train")
    done = speed_remedies(spec("gkd", "cuda:0", teacher=quick), "train")
    assert done == ("a lower max_new_tokens", "fewer max_steps", once)


def test_what_is_slow_to_score_is_not_trained_otherwise(spec: Spec) -> None:
    assert speed_remedies(spec("gkd"), "evaluate") == (
        "a larger evaluation.batch_size",
        "fewer documents in the suite",
    )


def test_what_helps_where_memory_ran_out_depends_on_the_phase(spec: Spec) -> None:
    trial = spec("gkd", per_device_train_batch_size=4)
    trained = memory_remedies(trial, "train")
    assert trained[0].startswith("per_device_train_batch_size: 2")
    assert memory_remedies(trial, "load") == trained[1:3] + trained[-1:]
    scored = ("a suite with shorter prompts (num_fewshot)", "a smaller model")
    assert memory_remedies(trial, "evaluate") == memory_remedies(trial, INTERIM_PHASE) == scored


@pytest.mark.parametrize(
    ("remedies", "told"),
    [
        ((), "It broke."),
        (("a",), "It broke. Try a."),
        (("a", "b", "c"), "It broke. Try a, b or c."),
    ],
)
def test_a_failure_tells_what_to_try(remedies: tuple[str, ...], told: str) -> None:
    assert Failure(kind="diverged", message="It broke.", remedies=remedies).told() == told
