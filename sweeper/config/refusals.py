"""What a study must not ask for: keys that would do nothing, or fail once models are trained.

These checks are made of study files, not of records: a study that an earlier version ran can still
be reported and compared.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sweeper.config.arms import ArmConfig
from sweeper.config.attention import attention_problems
from sweeper.config.base import KeyPath, Refusal, short
from sweeper.config.dead_keys import dead_keys
from sweeper.config.extra import extra_problems
from sweeper.config.models import HEADS, NO_HEAD
from sweeper.config.optimisation import (
    EPSILON,
    Course,
    optim_args_problem,
    optimiser_problem,
    schedule_problems,
)
from sweeper.config.scoring_engine import scoring_engine_problems
from sweeper.config.served_students import served_students_problems
from sweeper.config.served_teacher import served_teacher_problems
from sweeper.config.settings import MethodSettings, resolve
from sweeper.config.study import StudyConfig
from sweeper.config.teacher_signal import signal_problems

_KWARGS = "lr_scheduler_kwargs"
NO_FP16 = "fp16 needs a GPU (bf16 also works on a CPU)"
NO_TF32 = "tf32 needs a GPU"


def refusals(config: StudyConfig) -> Iterator[Refusal]:
    """Yield what is refused, each with its place."""
    yield from served_teacher_problems(config)
    yield from scoring_engine_problems(config)
    yield from served_students_problems(config)
    yield from _targets(config)
    yield from attention_problems(config)
    yield from extra_problems(config)
    yield from _optimisers(config)
    yield from _precisions(config)
    yield from _schedules(config)
    yield from _lengths(config)
    yield from signal_problems(config)
    yield from _engines(config)
    yield from dead_keys(config)


def _lengths(config: StudyConfig) -> Iterator[Refusal]:
    """Yield trainings whose length is written both in steps and in epochs."""
    key, message = "num_train_epochs", "expected either max_steps or this key, found both"
    if {"max_steps", key} <= config.training.model_fields_set and config.training.num_train_epochs:
        yield ("training", key), message
    for arm, one in config.arms.items():
        found = dict.fromkeys((*one.settings, *one.search))
        if "max_steps" in found and key in found:
            yield ("arms", arm, "search" if key in one.search else "settings", key), message


def _engines(config: StudyConfig) -> Iterator[Refusal]:
    """Yield an engine of rollouts that cannot sample in trials of several processes."""
    if config.rollouts.engine == "transformers" and config.compute.devices_per_trial > 1:
        message = "expected sweeper or vllm with compute.devices_per_trial above 1"
        yield ("rollouts", "engine"), f"{message}: continuous batching samples on one device"


def _targets(config: StudyConfig) -> Iterator[Refusal]:
    """Yield targets of the adapter that are no modules below the head."""
    lora = config.student.lora
    if lora is None or isinstance(lora.target_modules, str):
        return
    place: KeyPath = ("student", "lora", "target_modules")
    if not lora.target_modules:
        yield place, "expected all-linear or at least one name, found []"
    for index, name in enumerate(lora.target_modules):
        if name == "all-linear":
            yield (*place, index), "expected all-linear alone, not in a list"
        elif name.rpartition(".")[2] in HEADS:
            yield (*place, index), f"expected no head, found {short(name)}: {NO_HEAD}"


def _optimisers(config: StudyConfig) -> Iterator[Refusal]:
    """Yield names of no optimiser, and arguments that one does not read or cannot have."""
    for place, name in config.values_of("optim"):
        if message := optimiser_problem(name):
            yield place, message
    for place, value in config.values_of("adam_epsilon"):
        if value < EPSILON:
            yield place, f"expected a number of at least {EPSILON:g}, found {value:g}"
    everywhere = [str(name) for _, name in config.values_of("optim")]
    given, first = config.training.extra, [one for _, one in config.values_of("adam_beta1")]
    if "optim_args" in given and (
        message := optim_args_problem(everywhere, given["optim_args"], first)
    ):
        yield ("training", "extra", "optim_args"), message
    if (warm := config.warm_start) is not None and "optim_args" in warm.extra:
        own = [config.training.optim], warm.extra["optim_args"], [config.training.adam_beta1]
        if message := optim_args_problem(*own):
            yield ("warm_start", "extra", "optim_args"), message
    for arm, one in config.arms.items():
        names = [str(name) for _, name in one.places("optim")] or [config.training.optim]
        whole = one.settings.get("extra", {})
        values = list(one.places("extra.optim_args"))
        if "optim_args" in whole:
            values.append((("settings", "extra", "optim_args"), whole["optim_args"]))
        for place, value in values:
            if message := optim_args_problem(names, value, first):
                yield ("arms", arm, *place), message


def _precisions(config: StudyConfig) -> Iterator[Refusal]:
    """Yield trainings in two precisions at once, and float16 where it cannot be trained in."""
    message = "expected either bf16 or fp16, found both"
    training = config.training
    places: dict[KeyPath, None] = {}
    if config.warm_start is not None and training.bf16 and training.fp16:
        places["training", "fp16"] = None
    for arm, one in config.arms.items():
        both = {name: dict(one.places(name)) for name in ("bf16", "fp16")}
        values = [list(both[name].values()) or [getattr(training, name)] for name in both]
        if all(map(any, values)):
            own = [("arms", arm, *place) for name in ("fp16", "bf16") for place in both[name]]
            places[(own or [("training", "fp16")])[0]] = None
    yield from ((place, message) for place in places)
    if config.student.dtype == "float16" and config.student.lora is None:
        yield (
            ("student", "dtype"),
            "expected float32 or bfloat16 for a student that is trained whole: weights in float16"
            " turn into NaN, for AdamW's epsilon is 0 there. Write training.fp16: true, which"
            " computes in float16 only, or train an adapter (student.lora)",
        )
    if config.compute.device == "cpu":
        for name, why in (("fp16", NO_FP16), ("tf32", NO_TF32)):
            for place, value in config.values_of(name):
                if value:
                    yield place, f"{why}, and compute.device is cpu"


def _schedules(config: StudyConfig) -> Iterator[Refusal]:
    """Yield arguments that a training's schedule does not read or cannot have, or that it lacks."""
    found: dict[tuple[KeyPath, str], None] = {}
    for arm, one in config.arms.items():
        searched = [name for name in one.search if name.startswith(f"{_KWARGS}.")]
        # Each end of a range by itself: the others may have any value.
        first = {name: next(iter(one.search[name].ends().values())) for name in searched}
        ends = [{name: end} for name in searched for end in one.search[name].ends().values()]
        for values in ends or [{}]:
            settings = resolve(config.training, one.settings, {**first, **values})
            course = _course(settings, one)
            for argument, message in schedule_problems(course, settings.lr_scheduler_kwargs):
                found[_blamed(arm, one, argument), message] = None
    if (warm := config.warm_start) is not None:
        settings = resolve(config.training, warm.settings())
        arguments = settings.lr_scheduler_kwargs
        for argument, message in schedule_problems(_course(settings), arguments):
            own = warm.lr_scheduler_kwargs is not None or warm.lr_scheduler_type is not None
            place: KeyPath = ("warm_start",) if own else ("training",)
            missing = argument is None or argument not in arguments
            at = ("lr_scheduler_type",) if missing else (_KWARGS, str(argument))
            found[(*place, *at), message] = None
    yield from found


def _course(settings: MethodSettings, arm: ArmConfig | None = None) -> Course:
    """Return what a training's schedule may depend on, searched values included."""

    def values(name: str) -> list[Any]:
        searched = arm is not None and name in arm.search
        ends = arm.search[name].ends().values() if arm is not None and searched else ()
        return list(ends) or [getattr(settings, name)]

    epochs = settings.num_train_epochs is not None
    epochs |= arm is not None and "num_train_epochs" in arm.search
    return Course(
        schedules=[str(name) for name in values("lr_scheduler_type")],
        learning_rate=min(values("learning_rate")),
        warmups=values("warmup_ratio"),
        steps=None if epochs else min(values("max_steps")),
    )


def _blamed(arm: str, config: ArmConfig, argument: str | None) -> KeyPath:
    """Return the place of a schedule's argument; that of the schedule, where one is missing."""
    names = (f"{_KWARGS}.{argument}", _KWARGS) if argument else ("lr_scheduler_type",)
    for name in names:
        for part, keys in (("settings", config.settings), ("search", config.search)):
            if name in keys:
                whole = argument is not None and name == _KWARGS
                return ("arms", arm, part, name, *((argument,) if whole else ()))
    return ("training", _KWARGS, argument) if argument else ("training", "lr_scheduler_type")
