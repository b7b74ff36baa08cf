"""The primary comparisons that a study file declares."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterator
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from sweeper.config.base import Problems, Refusal, short

BASELINES = ("teacher", "start")
"""Names of the models that no arm trains: the study's teacher, and the start of all arms."""


def _check_pairs(pairs: Any) -> Any:
    problems = Problems()
    if pairs is not None and (not isinstance(pairs, list | tuple) or not pairs):
        problems.add((), f"expected a list of pairs, as in [[gkd, sft]], found {short(pairs)}")
    for place, pair in enumerate(pairs if isinstance(pairs, list | tuple) else ()):
        names = isinstance(pair, list | tuple) and all(isinstance(name, str) for name in pair)
        if not names or len(pair) != 2:
            message = f"expected a pair of names, as in [gkd, sft], found {short(pair)}"
            problems.add((place,), message)
    problems.raise_if_any()
    return pairs


_Pair = Annotated[tuple[str, str], Field(strict=False)]
_Pairs = Annotated[tuple[_Pair, ...], Field(strict=False)]
Pairs = Annotated[_Pairs | None, BeforeValidator(_check_pairs)]
"""Primary comparisons: each the first name minus the second; None: chosen by the default rule."""


def pair_problems(pairs: Collection[tuple[str, str]], arms: Collection[str]) -> Iterator[Refusal]:
    """Yield what is wrong with the declared comparisons of these arms."""
    seen: dict[frozenset[str], tuple[str, str]] = {}
    known = (*arms, *(name for name in BASELINES if name not in arms))
    for place, pair in enumerate(pairs):
        problems = list(_name_problems(pair, arms, known))
        yield from (((place, side), message) for side, message in problems)
        if problems:
            continue
        if pair[0] == pair[1]:
            yield (place,), f"expected two different arms, found {pair[0]!r} twice"
        elif not set(pair) & set(arms):
            message = "expected at least one arm: no arm trains the teacher or the start"
            yield (place,), message
        elif first := seen.get(frozenset(pair)):
            again = "reversed" if first != pair else "again"
            yield (place,), f"expected each comparison once, found [{', '.join(first)}] {again}"
        seen.setdefault(frozenset(pair), pair)


def _name_problems(
    pair: tuple[str, str], arms: Collection[str], known: Collection[str]
) -> Iterator[tuple[int, str]]:
    for side, name in enumerate(pair):
        if name in arms and name in BASELINES:
            what = "the study's teacher" if name == "teacher" else "the student all arms start from"
            yield side, f"{name!r} is an arm and also stands for {what}: rename the arm"
        elif name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            meant = f"; did you mean {close[0]!r}?" if close else ""
            yield side, f"expected one of {', '.join(known)}, found {name!r}{meant}"
