"""What to change about a training that does not fit: in order, and only what is left to change."""

from __future__ import annotations

from dataclasses import replace

from sweeper.config.models import LoraConfig, ModelConfig, StudentConfig
from sweeper.config.settings import MethodSettings
from sweeper.records.remedies import Setup, advice, smaller_batches


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
