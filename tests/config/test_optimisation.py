"""Schedules, optimisers and what ``extra`` may name, held against the installed libraries."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args

import pytest

from sweeper.config.extra import allowed, instead
from sweeper.config.loading import load_study
from sweeper.config.optimisation import OPTIMISERS, SCHEDULES
from sweeper.config.settings import (
    METHODS,
    LearningRateSchedule,
    MethodSettings,
    TrainingConfig,
    in_steps,
    resolve,
)
from sweeper.foundation.errors import ConfigError, Problem

WriteStudy = Callable[..., Path]


def problems(path: Path, *overrides: str) -> list[Problem]:
    with pytest.raises(ConfigError) as caught:
        load_study(path, overrides)
    return list(caught.value.problems)


def test_the_schedules_and_their_arguments_are_those_of_transformers() -> None:
    from transformers.optimization import TYPE_TO_SCHEDULER_FUNCTION

    set_by_the_trainer = {"optimizer", "num_warmup_steps", "num_training_steps", "last_epoch", "_"}
    theirs = {
        kind.value: set(inspect.signature(function).parameters) - set_by_the_trainer
        for kind, function in TYPE_TO_SCHEDULER_FUNCTION.items()
        # These two follow a metric of an evaluation, which a trial does not have.
        if kind.value not in ("greedy", "reduce_lr_on_plateau")
    }
    assert {name: set(arguments) for name, arguments in SCHEDULES.items()} == theirs
    assert set(get_args(LearningRateSchedule)) == set(SCHEDULES)


def test_the_optimisers_are_transformers_own() -> None:
    from transformers.training_args import OptimizerNames

    assert set(OPTIMISERS) <= {name.value for name in OptimizerNames}


KWARGS = "training.lr_scheduler_kwargs"


@pytest.mark.parametrize(
    ("overrides", "path", "message"),
    [
        (("training.lr_scheduler_type=cosine_with_min_lr",), "type", "min_lr or min_lr_rate with"),
        (
            (
                "training.lr_scheduler_type=cosine_with_min_lr",
                "training.lr_scheduler_kwargs={min_lr: 0.0, min_lr_rate: 0.1}",
            ),
            "type",
            "found min_lr and min_lr_rate",
        ),
        (("training.lr_scheduler_kwargs={min_lr: 0.1}",), "kwargs.min_lr", "it reads none"),
        (
            (
                "training.lr_scheduler_type=warmup_stable_decay",
                "training.lr_scheduler_kwargs={num_decay_steps: 0.5}",
            ),
            f"{KWARGS}.num_decay_steps",
            "expected a whole number",
        ),
        (("training.lr_scheduler_type=warmup_stable_decay",), "type", "num_decay_steps with"),
        (("training.lr_scheduler_type=reduce_lr_on_plateau",), "type", "expected 'linear'"),
        (
            ("arms.sft.settings.lr_scheduler_kwargs.power=2.0",),
            "arms.sft.settings.lr_scheduler_kwargs.power",
            "has no effect with lr_scheduler_type: linear",
        ),
        (
            (
                "arms.sft.search.lr_scheduler_type={type: categorical, choices: [linear, cosine]}",
                "arms.sft.settings.lr_scheduler_kwargs.num_cycles=1",
            ),
            "arms.sft.settings.lr_scheduler_kwargs.num_cycles",
            "has no effect with lr_scheduler_type: linear",
        ),
        (("training.optim=adamw",), "training.optim", "expected one of adamw_torch,"),
        (("training.optim=schedule_free_adamw",), "training.optim", "expected one of adamw_torch,"),
        (
            ("arms.sft.search.optim={type: categorical, choices: [sgd, lomo]}",),
            "arms.sft.search.optim.choices.1",
            "found 'lomo'",
        ),
        (("training.extra={optim_args: momentum=0.9}",), "optim_args", "momentum has no effect"),
        (("training.optim=sgd", "training.extra={optim_args: 0.9}"), "optim_args", "expected text"),
        (
            ("training.optim=sgd", "training.extra={optim_args: weight_decay=1}"),
            "optim_args",
            "it reads momentum",
        ),
        *(
            (
                (f"training.lr_scheduler_type={schedule}", f"{KWARGS}={{{argument}: {value}}}"),
                f"{KWARGS}.{argument}",
                message,
            )
            for schedule, argument, value, message in [
                ("polynomial", "lr_end", "0.1", "below the lowest learning_rate"),
                ("polynomial", "power", "0", "above 0 and at most 100"),
                ("cosine_with_min_lr", "min_lr", "0.1", "below the lowest learning_rate"),
                ("cosine_with_min_lr", "min_lr_rate", "1", "below 1, found 1"),
                ("cosine", "num_cycles", "1.0e+308", "at most 1000"),
                ("inverse_sqrt", "timescale", "0", "of at least 1, found 0"),
                ("warmup_stable_decay", "num_decay_steps", "400", "at most 4 steps, max_steps"),
                ("warmup_stable_decay", "num_decay_steps", "0", "of at least 1, found 0"),
            ]
        ),
        (
            (
                "training.lr_scheduler_type=cosine_warmup_with_min_lr",
                "training.lr_scheduler_kwargs={min_lr_rate: 0.1, warmup_lr_rate: 0.1}",
            ),
            f"{KWARGS}.warmup_lr_rate",
            "has no effect without warmup_ratio",
        ),
        (
            ("training.lr_scheduler_type=polynomial", "training.warmup_ratio=0.9"),
            "training.lr_scheduler_type",
            "expected a lower warmup_ratio",
        ),
        (
            ("training.lr_scheduler_type=polynomial", "training.learning_rate=1.0e-8"),
            "training.lr_scheduler_type",
            "found 1e-07, its default",
        ),
        (("training.adam_epsilon=1.0e-40",), "training.adam_epsilon", "of at least 1e-30"),
        *(
            (
                (f"training.optim={name}", f"training.extra={{optim_args: '{text}'}}"),
                "extra.optim_args",
                message,
            )
            for name, text, message in [
                ("sgd", "momentum=abc", "momentum: expected a number above 0 and below 1"),
                ("sgd", "momentum=-1", "found -1.0"),
                ("sgd", "momentum=nan", "found nan"),
                ("sgd", "momentum=0.5,momentum=0.9", "expected momentum once"),
                ("sgd", "nesterov=true", "nesterov needs momentum"),
                ("sgd", "dampening=0.5", "dampening needs momentum"),
                ("sgd", "momentum=0.9,nesterov=ture", "expected true or false, found 'ture'"),
                ("sgd", "momentum=0.9,nesterov=true,dampening=0.1", "found both"),
                ("adagrad", "eps=0", "eps: expected a number of at least 1e-30"),
                ("adagrad", "lr_decay=-1", "lr_decay: expected"),
                ("rmsprop", "alpha=1", "alpha: expected a number of at least 0.1 and below 1"),
                ("ademamix", "t_alpha=1.5", "t_alpha: expected a whole number of at least 1"),
                ("ademamix", "t_beta3=9,beta1=0", "t_beta3 needs a beta1"),
                ("ademamix", "t_beta3=9,beta3=0.5", "above 0 and at most beta3, 0.5"),
            ]
        ),
        *(
            ((f"training.extra={{neftune_noise_alpha: {value}}}",), "neftune_noise_alpha", message)
            for value, message in [
                ("0", "has no effect at 0: leave it out"),
                ("null", "expected a number"),
                ("'5'", "expected a number"),
                ("-3", "expected a number"),
                ("true", "expected a number"),
                ("1.0e+9", "at most 1000"),
            ]
        ),
        (
            ("arms.sft.search.extra.neftune_noise_alpha={type: categorical, choices: [0, 0.0x]}",),
            "choices.1",
            "found '0.0x'",
        ),
        (("training.num_train_epochs=2",), "training.num_train_epochs", "found both"),
        (("training.num_train_epochs=0",), "training.num_train_epochs", "greater than 0"),
    ],
)
def test_what_would_do_nothing_is_refused_at_its_place(
    write_study: WriteStudy, overrides: tuple[str, ...], path: str, message: str
) -> None:
    [problem] = problems(write_study(arms={"sft": {}}), *overrides)
    assert message in problem.message and problem.path.endswith(path)


@pytest.mark.parametrize(
    "overrides",
    [
        ("lr_scheduler_type=cosine_with_min_lr", "lr_scheduler_kwargs={min_lr_rate: 0.1}"),
        # Where it stood in earlier versions.
        ("lr_scheduler_type=cosine_with_min_lr", "extra={lr_scheduler_kwargs: {min_lr: 1.0e-6}}"),
        ("lr_scheduler_type=polynomial", "lr_scheduler_kwargs={power: 2, lr_end: 0.0}"),
        ("lr_scheduler_type=warmup_stable_decay", "lr_scheduler_kwargs={num_decay_steps: 2}"),
        ("optim=sgd", "extra={optim_args: 'momentum=0.9, nesterov=true'}"),
        ("optim=paged_adamw_8bit",),
        ("optim=ademamix_8bit", "extra={optim_args: alpha=4}"),
    ],
)
def test_what_has_an_effect_is_taken(write_study: WriteStudy, overrides: tuple[str, ...]) -> None:
    study = load_study(write_study(), [f"training.{one}" for one in overrides])
    assert "lr_scheduler_kwargs" not in study.config.training.extra
    assert bool(study.config.training.lr_scheduler_kwargs) == ("lr_sch" in overrides[0])


def test_a_schedules_arguments_are_searched_by_their_names(write_study: WriteStudy) -> None:
    arm = {
        "settings": {"lr_scheduler_type": "cosine_with_min_lr"},
        "search": {"lr_scheduler_kwargs.min_lr_rate": {"type": "float", "low": 0.0, "high": 0.5}},
    }
    config = load_study(write_study(arms={"sft": arm})).config
    sampled = {"lr_scheduler_kwargs.min_lr_rate": 0.25}
    settings = resolve(config.training, config.arms["sft"].settings, sampled)
    assert settings.lr_scheduler_kwargs == {"min_lr_rate": 0.25}
    # A mapping replaces the study's, since it belongs to another schedule.
    training = TrainingConfig(lr_scheduler_kwargs={"power": 2})
    assert resolve(training, {"lr_scheduler_kwargs": {"a": 1}}).lr_scheduler_kwargs == {"a": 1}


def test_epochs_are_counted_in_the_rows_of_all_devices() -> None:
    training = TrainingConfig(num_train_epochs=2.5, per_device_train_batch_size=4)
    assert in_steps(resolve(training), 100, 1).max_steps == 63
    assert in_steps(resolve(training), 100, 2).max_steps == 32
    assert in_steps(resolve(training, {"num_train_epochs": 0.01}), 100, 1).max_steps == 1
    # Of steps and epochs the last layer's counts.
    assert in_steps(resolve(training, {"max_steps": 7}), 100, 1).max_steps == 7
    steps = TrainingConfig(max_steps=7)
    assert in_steps(resolve(steps, {"num_train_epochs": 1.0}), 80, 1).max_steps == 10


def every_argument() -> set[str]:
    from transformers import TrainingArguments
    from trl import DistillationConfig, SFTConfig

    from sweeper.distillation.trainers.trl_gkd import GKDConfig

    kinds: list[Any] = [TrainingArguments, SFTConfig, GKDConfig, DistillationConfig]
    return {field.name for kind in kinds for field in fields(kind)}


def test_what_turns_an_argument_off_is_taken_where_another_value_is_on(
    write_study: WriteStudy,
) -> None:
    name = "extra.neftune_noise_alpha"
    search = {name: {"type": "categorical", "choices": [0, 5.0]}}
    load_study(write_study(arms={"sft": {"search": search}}))
    training = {"max_steps": 2, "extra": {"neftune_noise_alpha": 5}}
    load_study(write_study(arms={"sft": {"settings": {name: 0}}, "gkd": {}}, training=training))


def test_every_other_argument_of_every_engine_is_refused_with_its_line(
    write_study: WriteStudy,
) -> None:
    refused = sorted(every_argument() - allowed("gkd", "sweeper") - {"lr_scheduler_kwargs"})
    assert len(refused) > 100
    extra = {name: 1 for name in refused}
    found = problems(write_study(training={"max_steps": 2, "extra": extra}))
    assert [problem.path for problem in found] == [f"training.extra.{name}" for name in refused]
    assert all(problem.line is not None for problem in found)
    unnamed = {name for name in refused if not instead(name)}
    assert {"eval_strategy", "report_to", "label_smoothing_factor"}.isdisjoint(unnamed)


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("learning_rate", "learning_rate"),
        ("warmup_steps", "warmup_ratio"),
        ("num_train_epochs", "num_train_epochs"),
        ("seed", "seed"),
        ("eval_strategy", "evaluation"),
        ("save_steps", "checkpoint_every"),
        ("group_by_length", "length_bucketing"),
        ("truncation_mode", "max_length"),
        ("fsdp", "compute.shard_student"),
        ("dataloader_num_workers", "before training"),
        ("packing", "engine: trl"),
        ("label_smoothing_factor", "engine: trl"),
        ("loss_type", "engine: trl"),
        ("gradient_checkpointing", "gradient_checkpointing"),
        ("teacher_model_name_or_path", "teacher.model"),
        ("max_completion_length", "max_new_tokens"),
        ("no_such_argument", "expected neftune_noise_alpha, optim_args"),
    ],
)
def test_the_key_that_does_it_is_named(write_study: WriteStudy, name: str, key: str) -> None:
    study = write_study(arms={"gkd": {"settings": {f"extra.{name}": 1}}})
    [problem] = problems(study)
    assert key in problem.message and problem.path == f"arms.gkd.settings.extra.{name}"


def test_what_acts_in_some_arms_only_belongs_to_them(write_study: WriteStudy) -> None:
    arms: dict[str, Any] = {"sft": {}, "supervised_kd": {}}
    extra = {"label_smoothing_factor": 0.1}
    study = write_study(arms=arms, training={"max_steps": 2, "engine": "trl", "extra": extra})
    [problem] = problems(study)
    assert "has no effect in supervised_kd" in problem.message
    arms["sft"] = {"settings": {"extra": extra}}
    load_study(write_study(arms=arms, training={"max_steps": 2, "engine": "trl"}))
    arms["sft"] = {"search": {"extra.packing": {"type": "categorical", "choices": [True, False]}}}
    [problem] = problems(write_study(arms=arms))
    assert problem.path == "arms.sft.search.extra.packing"


def test_every_method_of_the_own_engine_has_the_same_arguments() -> None:
    assert len({allowed(method, "sweeper") for method in METHODS}) == 1
    assert not set(MethodSettings.model_fields) & allowed("gkd", "sweeper")
