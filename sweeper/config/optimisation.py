"""Optimisers and schedules, by transformers' names, with the arguments that each reads.

The tables are held against the installed library by a test.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any, NamedTuple

from sweeper.config.base import short

SCHEDULES: Mapping[str, tuple[str, ...]] = {
    "linear": (),
    "cosine": ("num_cycles",),
    "cosine_with_restarts": ("num_cycles",),
    "cosine_with_min_lr": ("min_lr", "min_lr_rate", "num_cycles"),
    "cosine_warmup_with_min_lr": ("min_lr", "min_lr_rate", "num_cycles", "warmup_lr_rate"),
    "polynomial": ("lr_end", "power"),
    "constant": (),
    "constant_with_warmup": (),
    "inverse_sqrt": ("timescale",),
    "warmup_stable_decay": (
        "num_decay_steps",
        "num_stable_steps",
        "warmup_type",
        "decay_type",
        "min_lr_ratio",
        "num_cycles",
    ),
}
"""Arguments that each schedule reads of ``lr_scheduler_kwargs``."""
_NEEDED: Mapping[str, tuple[str, ...]] = {
    "cosine_with_min_lr": ("min_lr", "min_lr_rate"),
    "cosine_warmup_with_min_lr": ("min_lr", "min_lr_rate"),
    "warmup_stable_decay": ("num_decay_steps",),
}
"""Arguments of which a schedule needs exactly one."""
_SHAPES = ("linear", "cosine", "1-sqrt")
_SHAPED = ("warmup_type", "decay_type")


_ANY = 1e30


class Bounds(NamedTuple):
    """Numbers that an argument may be."""

    low: float = 0.0
    high: float = _ANY
    above: bool = False
    """True if ``low`` itself is not among them."""
    below: bool = False
    """True if ``high`` itself is not among them."""
    whole: bool = False

    def problem(self, value: Any) -> str | None:
        """Say why ``value`` is not among them; None if it is."""
        kinds = int if self.whole else int | float
        if isinstance(value, kinds) and not isinstance(value, bool):
            enough = value > self.low if self.above else value >= self.low
            if enough and (value < self.high if self.below else value <= self.high):
                return None
        rule = f"{'above' if self.above else 'of at least'} {self.low:g}"
        if self.high < 1e6:
            rule += f" and {'below' if self.below else 'at most'} {self.high:g}"
        return f"expected a {'whole ' * self.whole}number {rule}, found {short(value)}"


_SHARE = Bounds(high=1, below=True)
_BETWEEN = Bounds(high=1, above=True, below=True)
_STEPS = Bounds(1, 2**31, below=True, whole=True)
_SCHEDULE_BOUNDS: Mapping[str, Bounds] = {
    "num_cycles": Bounds(high=1000, above=True),
    "min_lr": Bounds(),
    "min_lr_rate": _SHARE,
    "min_lr_ratio": _SHARE,
    "warmup_lr_rate": _SHARE,
    "lr_end": Bounds(),
    "power": Bounds(high=100, above=True),
    "timescale": _STEPS,
    "num_decay_steps": _STEPS,
    "num_stable_steps": _STEPS._replace(low=0),
}
EPSILON = 1e-30
"""Least term against a division by zero that float32 holds."""
_OPTIMISER_BOUNDS: Mapping[str, Bounds] = {
    "momentum": _BETWEEN,
    "dampening": _SHARE,
    "eps": Bounds(EPSILON),
    "lr_decay": Bounds(),
    "beta1": _SHARE,
    "beta2": _SHARE,
    "beta3": _BETWEEN,
    "alpha": Bounds(high=1000),
    "t_alpha": _STEPS,
    "t_beta3": _STEPS,
}
_RMSPROP_ALPHA = Bounds(0.1, 1, below=True)
"""Below, a centered variance is lost in its rounding."""
_FLAGS: Mapping[str, bool] = {"true": True, "false": False}

_ADEMAMIX = ("beta1", "beta2", "beta3", "alpha", "eps", "t_alpha", "t_beta3")
BITSANDBYTES: Mapping[str, tuple[str, ...]] = {
    "adamw_8bit": (),
    "adamw_bnb_8bit": (),
    "paged_adamw_8bit": (),
    "paged_adamw_32bit": (),
    "ademamix": _ADEMAMIX,
    "ademamix_8bit": _ADEMAMIX,
    "paged_ademamix_8bit": _ADEMAMIX,
    "paged_ademamix_32bit": _ADEMAMIX,
    "lion_8bit": (),
    "lion_32bit": (),
    "paged_lion_8bit": (),
    "paged_lion_32bit": (),
    "rmsprop_bnb": (),
    "rmsprop_bnb_8bit": (),
    "rmsprop_bnb_32bit": (),
}
"""Optimisers of bitsandbytes, and what each reads of ``optim_args``."""
OPTIMISERS: Mapping[str, tuple[str, ...]] = {
    "adamw_torch": (),
    "adamw_torch_fused": (),
    "adafactor": (),
    "adagrad": ("lr_decay", "eps"),
    "rmsprop": ("momentum", "alpha", "eps", "centered"),
    "sgd": ("momentum", "dampening", "nesterov"),
    **BITSANDBYTES,
}
"""Optimisers that need no code of their own around them, and what each reads of ``optim_args``."""


def optimiser_problem(name: Any) -> str | None:
    """Say why ``name`` is no optimiser here; None if it is one."""
    if name in OPTIMISERS:
        return None
    return f"expected one of {', '.join(OPTIMISERS)}, found {short(name)}"


class Course(NamedTuple):
    """What a trial may have next to its schedule's arguments."""

    schedules: Collection[str]
    learning_rate: float
    """The lowest one."""
    warmups: Collection[float]
    """Shares of the steps over which the learning rate may rise."""
    steps: int | None
    """The fewest optimiser steps; None if epochs decide."""

    def longest_warmup(self) -> int:
        """Return the most steps over which the learning rate may rise, out of ``steps``."""
        return round(max(self.warmups) * (self.steps or 0))


def schedule_problems(
    course: Course, arguments: Mapping[str, Any]
) -> Iterator[tuple[str | None, str]]:
    """Yield what is wrong with the arguments of the schedules that a trial may have.

    Args:
        course: Schedules, and what they depend on.
        arguments: Values of ``lr_scheduler_kwargs``.

    Yields:
        The argument to blame, or None for all of them, and the message.
    """
    right = dict(arguments)
    for argument, value in arguments.items():
        message = None
        for name in course.schedules:
            if argument not in SCHEDULES[name]:
                known = ", ".join(SCHEDULES[name]) or "none"
                message = f"has no effect with lr_scheduler_type: {name}; it reads {known}"
                yield argument, message
        if message is None and (message := _value_problem(argument, value)):
            yield argument, message
        if message is not None:
            del right[argument]
    for name in course.schedules:
        needed = _NEEDED.get(name, ())
        given = [argument for argument in needed if arguments.get(argument) is not None]
        if needed and len(given) != 1:
            wanted, found = " or ".join(needed), " and ".join(given) or "neither"
            found = found if len(needed) > 1 or given else "none"
            yield None, f"expected {wanted} with lr_scheduler_type: {name}, found {found}"
        yield from _misfits(name, course, right)


def _misfits(
    name: str, course: Course, given: Mapping[str, Any]
) -> Iterator[tuple[str | None, str]]:
    """Yield well-formed arguments that break a schedule in a training, or do nothing in it."""
    lowest = {"lr_end": 1e-7} if name == "polynomial" else {}
    for argument in ("lr_end", "min_lr"):
        value = given.get(argument, lowest.get(argument))
        if value is not None and value >= course.learning_rate:
            least = f"the lowest learning_rate, {course.learning_rate:g}"
            message = f"expected {argument} below {least}, found {value:g}"
            written = argument in given
            yield argument if written else None, message + ", its default" * (not written)
    for argument in ("warmup_lr_rate", "warmup_type"):
        if argument in given and not any(course.warmups):
            yield argument, "has no effect without warmup_ratio"
    if given.get("decay_type", "cosine") != "cosine" and "num_cycles" in given:
        yield "num_cycles", f"has no effect with decay_type: {given['decay_type']}"
    if course.steps is None:
        if name == "polynomial" and max(course.warmups) == 1:
            yield None, "expected warmup_ratio below 1: polynomial has no step left to decay in"
        return
    steps, warmup = course.steps, course.longest_warmup()
    if name == "polynomial" and warmup >= steps:
        message = f"expected a lower warmup_ratio: it takes all {steps} steps, and leaves none to"
        yield None, f"{message} decay in"
    parts = [given.get(argument, 0) for argument in ("num_stable_steps", "num_decay_steps")]
    if parts[1] and sum(parts) + warmup > steps:
        message = f"expected at most {steps} steps, max_steps, in all: found {warmup} of warm-up,"
        yield "num_decay_steps", f"{message} {parts[0]} stable and {parts[1]} of decay"


def optim_args_problem(
    optimisers: Collection[str], value: Any, beta1: Collection[float] = (0.9,)
) -> str | None:
    """Say why ``optim_args`` cannot be ``value``; None if each of the optimisers reads all of it.

    Args:
        optimisers: Names of the optimisers that a trial may have.
        value: Value of ``extra.optim_args``, such as ``momentum=0.9,nesterov=true``.
        beta1: Values of ``adam_beta1`` that a trial may have.
    """
    if not isinstance(value, str) or not value:
        return f"expected text such as momentum=0.9,nesterov=true, found {short(value)}"
    given: dict[str, float] = {}
    for pair in value.replace(" ", "").split(","):
        name, equals, text = pair.partition("=")
        if not equals or not name or not text:
            return f"expected NAME=VALUE, found {short(pair)}"
        for optimiser in optimisers:
            known = OPTIMISERS.get(optimiser, ())
            if name not in known:
                reads = ", ".join(known) or "none"
                return f"{name} has no effect with optim: {optimiser}; it reads {reads}"
        if name in given:
            return f"expected {name} once, found it again"
        if name in ("nesterov", "centered"):
            if text.lower() not in _FLAGS:
                return f"{name}: expected true or false, found {short(text)}"
            given[name] = _FLAGS[text.lower()]
            continue
        bounds = _OPTIMISER_BOUNDS[name]
        if name == "alpha" and "rmsprop" in optimisers:
            bounds = _RMSPROP_ALPHA
        number = _number(text, whole=bounds.whole)
        if message := bounds.problem(number):
            return f"{name}: {message}"
        given[name] = float(number)
    if "momentum" not in given and (lacking := {"nesterov", "dampening"} & set(given)):
        return f"{min(lacking)} needs momentum next to it"
    if given.get("nesterov") and given.get("dampening"):
        return "expected either nesterov=true or dampening, found both"
    firsts = [given["beta1"]] if "beta1" in given else beta1
    last = given.get("beta3", 0.9999)
    if "t_beta3" in given and not all(0 < first <= last for first in firsts):
        return f"t_beta3 needs a beta1 (or adam_beta1) above 0 and at most beta3, {last:g}"
    return None


def unread_by(optimisers: Collection[str], given: Collection[str] = ()) -> frozenset[str]:
    """Return the keys of Adam that none of the optimisers reads.

    Args:
        optimisers: Names of the optimisers that a trial may have.
        given: Names of ``optim_args``, which come before the keys.
    """
    unread = {"adam_beta1", "adam_beta2", "adam_epsilon"}
    for name in optimisers:
        if "adam" in name or "ademamix" in name:
            replaced = {"beta1": "adam_beta1", "beta2": "adam_beta2", "eps": "adam_epsilon"}
            unread &= {key for argument, key in replaced.items() if argument in given}
        elif "lion" in name:
            unread &= {"adam_epsilon"}
    return frozenset(unread)


def _number(text: str, *, whole: bool) -> Any:
    """Return the number that ``text`` stands for, as transformers reads it; else the text."""
    try:
        return int(text) if whole else float(text)
    except ValueError:
        return text


def _value_problem(argument: str, value: Any) -> str | None:
    if argument not in _SHAPED:
        return _SCHEDULE_BOUNDS[argument].problem(value)
    if value in _SHAPES:
        return None
    return f"expected one of {', '.join(_SHAPES)}, found {short(value)}"
