"""One side of a study's comparison: a method, what is fixed of its settings, what is searched."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any

from pydantic import Field, ValidationInfo, field_validator

from sweeper.config.base import KeyPath, PositiveInt, Problems, Strict, short
from sweeper.config.models import START
from sweeper.config.search import ArmBudgetConfig
from sweeper.config.settings import Method, TrainingConfig, value_problem, without_effect
from sweeper.config.space import Space, contains
from sweeper.config.start_with import StartEntry, check_entries
from sweeper.config.unknown_keys import collect_setting_problems, name_problem


class ArmConfig(Strict):
    """One side of the comparison: a method, what is fixed and what is searched."""

    method: Method
    """`sft`, `seqkd`, `supervised_kd` or `gkd`; by default the arm's name."""
    trials: PositiveInt | None = None
    """The trial budget; by default the study's `trials`. Unequal budgets are printed."""
    budget: ArmBudgetConfig = ArmBudgetConfig()
    """Further limits of the arm; by default its share of the study's `budget`."""
    settings: dict[str, Any] = {}
    """Fixed values, over those of `training`."""
    search: dict[str, Space] = {}
    """Search space: the settings that are sampled, by name."""
    start_with: Annotated[tuple[StartEntry, ...], Field(strict=False)] = ()
    """Settings that are tried first: `{lmbda: 0.5, …}`, some or all of `search`, or the best of an
    earlier study: `{study: PATH, best: 3}`. They count in the trial budget."""

    @field_validator("settings", mode="after")
    @classmethod
    def _check_settings(cls, settings: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        if method := info.data.get("method"):
            problems = Problems()
            collect_setting_problems(problems, method, settings)
            problems.raise_if_any()
        return settings

    @field_validator("search", mode="after")
    @classmethod
    def _check_search(cls, search: dict[str, Space], info: ValidationInfo) -> dict[str, Space]:
        method = info.data.get("method")
        settings = info.data.get("settings", {})
        if not method:
            return search
        problems = Problems()
        for name, space in search.items():
            if message := name_problem(method, name, searched=True):
                problems.add((name,), message)
                continue
            for key, end in space.ends().items():
                if message := value_problem(name, end):
                    problems.add((name, *key), message)
            if name in settings:
                problems.add((name,), f"expected {name!r} in either settings or search, found both")
            elif name in without_effect(method, lmbda := settings.get("lmbda")):
                problems.add((name,), f"{name!r} has no effect at lmbda: {lmbda:g}")
        problems.raise_if_any()
        return search

    @field_validator("start_with", mode="before")
    @classmethod
    def _one_entry(cls, entries: Any) -> Any:
        if not isinstance(entries, dict | list | tuple):
            problems = Problems()
            rule = "expected a list of settings, or {study: PATH, best: N}"
            problems.add((), f"{rule}, found {short(entries)}")
            problems.raise_if_any()
        return [entries] if isinstance(entries, dict) else entries

    @field_validator("start_with", mode="after")
    @classmethod
    def _check_start(
        cls, entries: tuple[StartEntry, ...], info: ValidationInfo
    ) -> tuple[StartEntry, ...]:
        method, search = info.data.get("method"), info.data.get("search")
        if method is None or search is None:
            return entries
        return check_entries(entries, method, info.data.get("settings", {}), search)

    def places(self, name: str) -> Iterator[tuple[KeyPath, Any]]:
        """Yield the values that the arm gives a setting, with their places in the arm."""
        if name in self.settings:
            yield ("settings", name), self.settings[name]
        if name in self.search:
            for where, value in self.search[name].ends().items():
                yield ("search", name, *where), value

    def sources(self) -> frozenset[bool]:
        """Return where sequences that the student does not sample may come from.

        False stands for the references, True for the teacher's own answers.
        """
        if self.method in ("sft", "seqkd"):
            return frozenset({self.method == "seqkd"})
        if space := self.search.get("seq_kd"):
            return frozenset(own for own in (False, True) if contains(space, own))
        return frozenset({bool(self.settings.get("seq_kd", False))})

    def uses_references(self) -> bool:
        """Return True if the arm trains on the reference answers."""
        return False in self.sources() and not self.is_on_policy_only()

    def is_on_policy_only(self) -> bool:
        """Return True if every sequence is sampled from the student."""
        return self.method == "gkd" and self.settings.get("lmbda") == 1


def values_of(
    name: str, training: TrainingConfig, arms: Mapping[str, ArmConfig]
) -> Iterator[tuple[KeyPath, Any]]:
    """Yield the values that a training setting may have in a trial, with their places."""
    yield ("training", name), getattr(training, name)
    for arm, config in arms.items():
        for place, value in config.places(name):
            yield ("arms", arm, *place), value


def untrained_teachers(
    arms: Mapping[str, ArmConfig],
) -> Iterator[tuple[tuple[str, str, str], str]]:
    """Yield where arms have a start with random weights as their teacher, and a message."""
    key = "teacher.model"
    for name, arm in arms.items():
        space = arm.search.get(key)
        where = "settings" if space is None else "search"
        if arm.settings.get(key) == START or (space is not None and contains(space, START)):
            message = f"expected another model: {START!r} has random weights (student.random_init)"
            yield (name, where, key), f"{message} without a warm_start"
