"""Signs that a student's rollouts have collapsed, found in the points of a training curve.

Points are joined to windows of ``min_rollouts``. The start, which later windows are compared with,
are the first ``CONSECUTIVE`` windows, and a judgement needs as many in a row, so that chance does
not raise it. The watch follows from the points alone: a training that resumes from a checkpoint,
which holds them, is judged as an undisturbed one.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping

from sweeper.config.collapse import CollapseConfig
from sweeper.config.settings import MethodSettings
from sweeper.records.outcomes import CollapseKind, CollapseSign
from sweeper.records.specs import TrialSpec

CONSECUTIVE = 3
"""Windows in a row that have to show a sign."""

Means = Mapping[str, float]
"""Means over the rollouts of a window, by the names of a training curve."""

_BY_ROLLOUT = {"rollout_length", "truncated_share", "ended_share", "repetition"}
_BY_TOKEN = {"student_entropy", "teacher_entropy"}


def may_stop(spec: TrialSpec) -> bool:
    """Return whether a sign ends the trial; confirmation runs are never ended."""
    return spec.origin.collapse.action == "stop" and spec.final is None


class _Sums:
    """Sums over the rollouts of some points."""

    def __init__(self) -> None:
        self._sums: defaultdict[str, float] = defaultdict(float)
        self._weights: defaultdict[str, float] = defaultdict(float)

    @property
    def rollouts(self) -> float:
        return self._weights["rollout_length"]

    def add(self, point: Mapping[str, float]) -> None:
        rollouts = point.get("rollouts", 0.0)
        tokens = rollouts * point.get("rollout_length", 0.0)
        for names, weight in ((_BY_ROLLOUT, rollouts), (_BY_TOKEN, tokens)):
            for name in point.keys() & names:
                self._sums[name] += point[name] * weight
                self._weights[name] += weight

    def means(self) -> Means:
        return {name: self._sums[name] / weight for name, weight in self._weights.items() if weight}


class CollapseWatch:
    """Watch over the rollouts of one training.

    Attributes:
        points: Number of points that it has been given.
    """

    def __init__(self, spec: TrialSpec) -> None:
        self._spec, self._config = spec, spec.origin.collapse
        self._start, self._window = _Sums(), _Sums()
        self._rows: Counter[CollapseKind] = Counter()
        self._found: set[CollapseKind] = set()
        self.points = 0

    def add(self, step: int, point: Mapping[str, float]) -> tuple[CollapseSign, ...]:
        """Add the next point of the training curve; return the signs that it makes certain."""
        self.points += 1
        if self._start.rollouts < CONSECUTIVE * self._config.min_rollouts:
            self._start.add(point)
            return ()
        self._window.add(point)
        if self._window.rollouts < self._config.min_rollouts:
            return ()
        window, start = self._window.means(), self._start.means()
        self._window = _Sums()
        if step <= self._config.grace * self._spec.settings.max_steps:
            return ()
        signs = []
        for kind, judge in _JUDGES.items():
            message = judge(window, start, self._config)
            self._rows[kind] = self._rows[kind] + 1 if message else 0
            if message and self._rows[kind] >= CONSECUTIVE and kind not in self._found:
                self._found.add(kind)
                settings = self._spec.settings
                remedies = tuple(_allowed(each, self._spec) for each in _REMEDIES[kind](settings))
                if kind in _BY_START and self._spec.origin.warm_start is None:
                    remedies += ("a warm_start",)
                signs.append(CollapseSign(kind=kind, step=step, message=message, remedies=remedies))
        return tuple(signs)


def _exploded(window: Means, start: Means, config: CollapseConfig) -> str | None:
    growth = window["rollout_length"] / start["rollout_length"]
    cut = window.get("truncated_share", 0.0)
    if cut <= config.truncated_share or growth < config.length_growth:
        return None
    return (
        f"rollouts grew to {window['rollout_length']:.0f} tokens, {growth:.1f} times the start's,"
        f" and max_new_tokens cuts {_percent(cut)} of them (collapse.truncated_share:"
        f" {config.truncated_share:g}, length_growth: {config.length_growth:g})"
    )


def _endless(window: Means, start: Means, config: CollapseConfig) -> str | None:
    ended = window.get("ended_share", 1.0)
    # Where rollouts grew until they were cut, that is the failure.
    if ended >= config.ended_share or _exploded(window, start, config):
        return None
    return (
        f"the student does not end its answers: an end token ends {_percent(ended)} of its rollouts"
        f" (collapse.ended_share: {config.ended_share:g})"
    )


def _repetitive(window: Means, start: Means, config: CollapseConfig) -> str | None:
    share = window.get("repetition", 0.0)
    if share <= config.repetition:
        return None
    return (
        f"the student repeats itself: {_percent(share)} of the 4-grams of its rollouts are repeats"
        f" (collapse.repetition: {config.repetition:g})"
    )


def _certain(window: Means, start: Means, config: CollapseConfig) -> str | None:
    if "student_entropy" not in window or "student_entropy" not in start:
        return None
    # Of a served teacher it is not known: it may be as certain.
    if "teacher_entropy" not in window:
        return None
    ours, theirs = window["student_entropy"], window["teacher_entropy"]
    before = start["student_entropy"]
    if not ours < config.entropy_share * min(theirs, before):
        return None
    return (
        f"the student's entropy collapsed to {ours:.2g} nats a token, from {before:.2g} at the"
        f" start, while the teacher's is {theirs:.2g} (collapse.entropy_share:"
        f" {config.entropy_share:g})"
    )


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


_JUDGES: dict[CollapseKind, Callable[[Means, Means, CollapseConfig], str | None]] = {
    "length": _exploded,
    "endless": _endless,
    "repetition": _repetitive,
    "entropy": _certain,
}
"""Functions that say what is wrong with a window, compared with the first one; None: nothing."""


def _against_explosion(settings: MethodSettings) -> Iterator[str]:
    yield from ("a lower learning_rate", "a lower lmbda")
    yield "a higher max_new_tokens, if the teacher's answers are that long"


def _against_endlessness(settings: MethodSettings) -> Iterator[str]:
    yield from ("a higher max_new_tokens", "a lower lmbda")


def _against_repetition(settings: MethodSettings) -> Iterator[str]:
    if settings.temperature < 1:
        yield "a higher temperature"
    yield from ("a lower lmbda", "a lower learning_rate")


def _against_certainty(settings: MethodSettings) -> Iterator[str]:
    if settings.beta > 0:
        yield "a lower beta"
    yield "a lower learning_rate"
    if settings.temperature < 1:
        yield "a higher temperature"
    yield "fewer max_steps"


def _allowed(remedy: str, spec: TrialSpec) -> str:
    """Return a remedy with what it needs: one sampled token leaves no choice of lmbda and beta."""
    if spec.settings.teacher_signal == "sampled" and remedy in ("a lower lmbda", "a lower beta"):
        signal = "exact" if spec.origin.teacher.server is None else "top_k"
        return f"teacher_signal: {signal} with {remedy}"
    return remedy


_REMEDIES: dict[CollapseKind, Callable[[MethodSettings], Iterator[str]]] = {
    "length": _against_explosion,
    "endless": _against_endlessness,
    "repetition": _against_repetition,
    "entropy": _against_certainty,
}
_BY_START = ("endless", "repetition")
"""Signs that a start which cannot answer yet shows as well."""
