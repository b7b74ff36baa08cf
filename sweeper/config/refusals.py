"""What a study must not ask for: keys that would do nothing, or fail once models are trained.

These checks are made of study files, not of records: a study that an earlier version ran can still
be reported and compared.
"""

from __future__ import annotations

from collections.abc import Iterator

from sweeper.config.arms import ArmConfig
from sweeper.config.attention import attention_problems
from sweeper.config.base import short
from sweeper.config.extra import extra_problems
from sweeper.config.models import HEADS, NO_HEAD
from sweeper.config.optimisation import optim_args_problem, optimiser_problem, schedule_problems
from sweeper.config.settings import resolve
from sweeper.config.study import StudyConfig

Location = tuple[str | int, ...]
_KWARGS = "lr_scheduler_kwargs"


def refusals(config: StudyConfig) -> Iterator[tuple[Location, str]]:
    """Yield what is refused, each with its place."""
    yield from _targets(config)
    yield from attention_problems(config)
    yield from extra_problems(config)
    yield from _optimisers(config)
    yield from _schedules(config)
    yield from _lengths(config)


def _lengths(config: StudyConfig) -> Iterator[tuple[Location, str]]:
    """Yield trainings whose length is written both in steps and in epochs."""
    key, message = "num_train_epochs", "expected either max_steps or this key, found both"
    if {"max_steps", key} <= config.training.model_fields_set and config.training.num_train_epochs:
        yield ("training", key), message
    for arm, one in config.arms.items():
        found = dict.fromkeys((*one.settings, *one.search))
        if "max_steps" in found and key in found:
            yield ("arms", arm, "search" if key in one.search else "settings", key), message


def _targets(config: StudyConfig) -> Iterator[tuple[Location, str]]:
    """Yield targets of the adapter that are no modules below the head."""
    lora = config.student.lora
    if lora is None or isinstance(lora.target_modules, str):
        return
    place: Location = ("student", "lora", "target_modules")
    if not lora.target_modules:
        yield place, "expected all-linear or at least one name, found []"
    for index, name in enumerate(lora.target_modules):
        if name == "all-linear":
            yield (*place, index), "expected all-linear alone, not in a list"
        elif name.rpartition(".")[2] in HEADS:
            yield (*place, index), f"expected no head, found {short(name)}: {NO_HEAD}"


def _optimisers(config: StudyConfig) -> Iterator[tuple[Location, str]]:
    for place, name in config.values_of("optim"):
        if message := optimiser_problem(name):
            yield place, message
    everywhere = [str(name) for _, name in config.values_of("optim")]
    given = config.training.extra
    if "optim_args" in given and (message := optim_args_problem(everywhere, given["optim_args"])):
        yield ("training", "extra", "optim_args"), message
    for arm, one in config.arms.items():
        own = [str(name) for _, name in one.places("optim")] or [config.training.optim]
        whole = one.settings.get("extra", {})
        if "optim_args" in whole and (message := optim_args_problem(own, whole["optim_args"])):
            yield ("arms", arm, "settings", "extra", "optim_args"), message
        for place, value in one.places("extra.optim_args"):
            if message := optim_args_problem(own, value):
                yield ("arms", arm, *place), message


def _schedules(config: StudyConfig) -> Iterator[tuple[Location, str]]:
    """Yield arguments that a training's schedule does not read, and those that it lacks."""
    found: dict[tuple[Location, str], None] = {}
    for arm, one in config.arms.items():
        names = [str(name) for _, name in one.places("lr_scheduler_type")]
        searched = [name for name in one.search if name.startswith(f"{_KWARGS}.")]
        # Each end of a range by itself: the others may have any value.
        first = {name: next(iter(one.search[name].ends().values())) for name in searched}
        ends = [{name: end} for name in searched for end in one.search[name].ends().values()]
        for values in ends or [{}]:
            settings = resolve(config.training, one.settings, {**first, **values})
            for argument, message in schedule_problems(
                names or [config.training.lr_scheduler_type], settings.lr_scheduler_kwargs
            ):
                found[_blamed(arm, one, argument), message] = None
    if (warm := config.warm_start) is not None:
        settings = resolve(config.training, warm.settings())
        arguments = settings.lr_scheduler_kwargs
        for argument, message in schedule_problems([settings.lr_scheduler_type], arguments):
            own = warm.lr_scheduler_kwargs is not None or warm.lr_scheduler_type is not None
            place: Location = ("warm_start",) if own else ("training",)
            missing = argument is None or argument not in arguments
            at = ("lr_scheduler_type",) if missing else (_KWARGS, str(argument))
            found[(*place, *at), message] = None
    yield from found


def _blamed(arm: str, config: ArmConfig, argument: str | None) -> Location:
    """Return the place of a schedule's argument; that of the schedule, where one is missing."""
    names = (f"{_KWARGS}.{argument}", _KWARGS) if argument else ("lr_scheduler_type",)
    for name in names:
        for part, keys in (("settings", config.settings), ("search", config.search)):
            if name in keys:
                whole = argument is not None and name == _KWARGS
                return ("arms", arm, part, name, *((argument,) if whole else ()))
    return ("training", _KWARGS, argument) if argument else ("training", "lr_scheduler_type")
