"""Optimisers and schedules, by transformers' names, with the arguments that each reads.

The tables are held against the installed library by a test.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

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
_WHOLE = ("num_decay_steps", "num_stable_steps", "timescale")

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


def schedule_problems(
    schedules: Collection[str], arguments: Mapping[str, Any]
) -> Iterator[tuple[str | None, str]]:
    """Yield what is wrong with the arguments of the schedules that a trial may have.

    Args:
        schedules: Names of the schedules.
        arguments: Values of ``lr_scheduler_kwargs``.

    Yields:
        The argument to blame, or None for all of them, and the message.
    """
    for name in schedules:
        for argument in arguments:
            if argument not in SCHEDULES[name]:
                known = ", ".join(SCHEDULES[name]) or "none"
                yield argument, f"has no effect with lr_scheduler_type: {name}; it reads {known}"
        needed = _NEEDED.get(name, ())
        given = [argument for argument in needed if arguments.get(argument) is not None]
        if needed and len(given) != 1:
            wanted, found = " or ".join(needed), " and ".join(given) or "neither"
            found = found if len(needed) > 1 or given else "none"
            yield None, f"expected {wanted} with lr_scheduler_type: {name}, found {found}"
    for argument, value in arguments.items():
        read = any(argument in SCHEDULES[name] for name in schedules)
        if read and (message := _value_problem(argument, value)):
            yield argument, message


def optim_args_problem(optimisers: Collection[str], value: Any) -> str | None:
    """Say why ``optim_args`` cannot be ``value``; None if each of the optimisers reads all of it.

    Args:
        optimisers: Names of the optimisers that a trial may have.
        value: Value of ``extra.optim_args``, such as ``momentum=0.9,nesterov=true``.
    """
    if not isinstance(value, str) or not value:
        return f"expected text such as momentum=0.9,nesterov=true, found {short(value)}"
    for pair in value.replace(" ", "").split(","):
        name, equals, number = pair.partition("=")
        if not equals or not name or not number:
            return f"expected NAME=VALUE, found {short(pair)}"
        for optimiser in optimisers:
            known = OPTIMISERS.get(optimiser, ())
            if name not in known:
                reads = ", ".join(known) or "none"
                return f"{name} has no effect with optim: {optimiser}; it reads {reads}"
    return None


def _value_problem(argument: str, value: Any) -> str | None:
    if argument in _SHAPED:
        valid, wanted = value in _SHAPES, f"one of {', '.join(_SHAPES)}"
    elif argument in _WHOLE:
        whole = isinstance(value, int) and not isinstance(value, bool)
        valid, wanted = whole and value >= 0, "a whole number of at least 0"
    else:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        valid, wanted = number and value >= 0, "a number of at least 0"
    return None if valid else f"expected {wanted}, found {short(value)}"
