"""Forests that predict the score from an arm's settings, fitted to halves of its trials.

Marginals are read from extremely randomised trees (Geurts, Ernst and Wehenkel, 2006): the
prediction for a setting's value, averaged over all other settings as the space samples them. A
tree's leaves are boxes, so this is exact (Hutter, Hoos and Leyton-Brown, ICML 2014).

The uncertainty comes from re-fits, each with one forest for either half of the trials
(complementary pairs: Shah and Samworth, 2013). Half-samples differ as other samples of all trials
would, and an effect chosen in one half can be checked in the other.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sweeper.analysis.comparison import scored_trials
from sweeper.config.base import Scalar
from sweeper.config.space import AnySpace, CategoricalSpace, IntSpace, contains, read_space
from sweeper.records.seeds import forest_seed
from sweeper.records.study_record import ArmRecord

FEWEST_TRIALS = 6
"""Fewest trials to fit: halves of fewer are useless."""
MOST_TRIALS = 400
"""Most trials to fit, an even selection: estimates settle long before."""
PAIRS = 10
"""Random splits into halves, each with two forests."""
TREES = 8
"""Trees of each forest."""
POINTS = 24
"""Points of a range, even on the scale that it is sampled on."""
INTERVAL = (0.1, 0.9)
"""Quantiles across re-fits that bound every interval."""

Row = tuple[dict[str, Scalar], float]
"""Settings of a trial, and its score."""
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Axis:
    """Setting as the forests see it."""

    name: str
    space: AnySpace

    @cached_property
    def values(self) -> tuple[Scalar, ...]:
        """Values at which the setting is evaluated, each as likely to be sampled."""
        space = self.space
        if isinstance(space, CategoricalSpace):
            return tuple(sorted(space.choices, key=_number)) if self.ordered else space.choices
        count = space.count()
        if count is not None and count <= POINTS and not space.log:
            return tuple(space.grid() or ())
        places = (np.arange(POINTS) + 0.5) / POINTS
        found = [self._value(float(place)) for place in places]
        if isinstance(space, IntSpace):
            return tuple(dict.fromkeys(round(value) for value in found))
        return tuple(found)

    @property
    def ordered(self) -> bool:
        """True if the values are numbers, which are then in order of size."""
        return not isinstance(self.space, CategoricalSpace) or all(
            isinstance(choice, int | float) and not isinstance(choice, bool)
            for choice in self.space.choices
        )

    @property
    def discrete(self) -> bool:
        """True if ``values`` are all values, rather than points of a range."""
        count = self.space.count()
        return count is not None and count == len(self.values)

    def place(self, value: Scalar) -> float:
        """Place a number between the ends of the space, from 0 to 1, on its scale."""
        space = self.space
        if isinstance(space, CategoricalSpace):
            # By rank: one step of a tree tells an end from its neighbour, however near that is.
            return self.values.index(value) / max(len(self.values) - 1, 1)
        number = _number(value)
        if space.log:
            return math.log(number / space.low) / math.log(space.high / space.low)
        return (number - space.low) / (space.high - space.low)

    def code(self, value: Scalar) -> list[float]:
        """Encode a value as columns: one, or one for each choice that is no number."""
        if self.ordered:
            return [self.place(value)]
        return [float(value == choice) for choice in self.values]

    def _value(self, place: float) -> float:
        space = self.space
        assert not isinstance(space, CategoricalSpace)
        if space.log:
            return float(space.low * (space.high / space.low) ** place)
        return float(space.low + place * (space.high - space.low))


@dataclass(frozen=True)
class Tree:
    """Fitted tree, as its leaves, which are boxes."""

    scores: Floats
    """Prediction of each leaf."""
    inside: tuple[Bools, ...]
    """Values that each leaf holds, by axis: leaves by values."""

    def marginal(self, axis: int) -> Floats:
        """Return the prediction by the values of an axis, the others averaged out."""
        return np.asarray(self.scores * self._shares(but=axis) @ self.inside[axis], dtype=float)

    def variance(self) -> float:
        """Compute the variance of the prediction over the whole space."""
        shares = self._shares()
        mean = shares @ self.scores
        return float(shares @ (self.scores - mean) ** 2)

    def _shares(self, but: int | None = None) -> Floats:
        """Return the share of the space that each leaf holds along all axes but one."""
        shares = np.ones(len(self.scores))
        for axis, inside in enumerate(self.inside):
            if axis != but:
                shares *= inside.mean(axis=1)
        return shares


@dataclass(frozen=True)
class Forests:
    """Forests on halves of the trials; two in a row share no trial."""

    axes: tuple[Axis, ...]
    trials: int
    forests: tuple[tuple[Tree, ...], ...]

    def marginals(self, axis: int) -> Floats:
        """Return each forest's marginal of an axis: forests by values."""
        return np.array(
            [np.mean([tree.marginal(axis) for tree in trees], axis=0) for trees in self.forests]
        )

    def shares(self) -> Floats:
        """Return each forest's importances, which sum to 1 unless all are 0: forests by axes."""
        found = np.zeros((len(self.forests), len(self.axes)))
        for row, trees in zip(found, self.forests, strict=True):
            for tree in trees:
                if (variance := tree.variance()) > 0:
                    row += [tree.marginal(axis).var() / variance for axis in range(len(self.axes))]
        totals = found.sum(axis=1, keepdims=True)
        return np.asarray(found / np.where(totals > 0, totals, 1.0), dtype=float)


@dataclass(frozen=True)
class ArmForests:
    """Forests of an arm."""

    arm: str
    axes: dict[str, Axis]
    """Settings that the arm searches and that vary."""
    rows: tuple[Row, ...]
    """Scored trials inside the search space, in ascending number."""
    shared: Forests | None
    """Forests of the settings that all trials sampled."""
    everywhere: Forests | None
    """Forests of all settings, within the trials that sampled every one; None if ``shared`` has all
    settings. ``temperature``, for example, has no effect at ``lmbda`` 0 and is only here."""

    def curves(self, name: str) -> Floats:
        """Return each forest's marginal of a setting, from all trials that sampled it."""
        for refits in filter(None, (self.shared, self.everywhere)):
            for index, axis in enumerate(refits.axes):
                if axis.name == name:
                    return refits.marginals(index)
        return np.empty((0, len(self.axes[name].values)))


def fit_forests(arm: ArmRecord, study_seed: int = 0) -> ArmForests:
    """Fit forests to the completed trials of ``arm`` inside its search space.

    The same records and seed give the same forests. There are none with fewer than
    ``FEWEST_TRIALS`` trials or without two different scores.
    """
    axes = {}
    for name, raw in arm.search.items():
        space = read_space(raw)
        if space is not None and _varies(space):
            axes[name] = Axis(name, space)
    rows = [
        ({name: value for name, value in trial.params.items() if name in axes}, score.score)
        for trial, score in scored_trials(arm)
        if all(_fits(axes[name].space, v) for name, v in trial.params.items() if name in axes)
    ]
    shared = [name for name in axes if all(name in params for params, _ in rows)]
    seed = forest_seed(study_seed, arm.name)
    everywhere = [row for row in rows if len(row[0]) == len(axes)]
    return ArmForests(
        arm=arm.name,
        axes=axes,
        rows=tuple(rows),
        shared=_forests([axes[name] for name in shared], rows, seed),
        everywhere=_forests(list(axes.values()), everywhere, seed)
        if len(shared) < len(axes)
        else None,
    )


def _forests(axes: Sequence[Axis], rows: Sequence[Row], seed: int) -> Forests | None:
    if not axes or len(rows) < FEWEST_TRIALS or len({score for _, score in rows}) < 2:
        return None
    from sklearn.ensemble import ExtraTreesRegressor

    rows = _thinned(rows)
    settings = np.array([[c for a in axes for c in a.code(row[a.name])] for row, _ in rows])
    scores = np.array([score for _, score in rows])
    points = _points(axes)
    random = np.random.default_rng(seed)
    forests = []
    for _ in range(PAIRS):
        order = random.permutation(len(rows))
        for half in (order[: len(rows) // 2], order[len(rows) // 2 :]):
            forest = ExtraTreesRegressor(TREES, random_state=int(random.integers(2**31)))
            forest.fit(settings[half], scores[half])
            forests.append(tuple(_tree(one.tree_, axes, points) for one in forest.estimators_))
    return Forests(tuple(axes), len(rows), tuple(forests))


def _points(axes: Sequence[Axis]) -> Floats:
    """Encode each value of each axis, one axis after the other; columns by points.

    A column is NaN at the values of other axes.
    """
    blocks = [np.array([axis.code(value) for value in axis.values]).T for axis in axes]
    points = np.full((sum(len(b) for b in blocks), sum(b.shape[1] for b in blocks)), np.nan)
    row = column = 0
    for block in blocks:
        points[row : row + len(block), column : column + block.shape[1]] = block
        row, column = row + len(block), column + block.shape[1]
    return points


def _tree(fitted: Any, axes: Sequence[Axis], points: Floats) -> Tree:
    """Convert a tree of scikit-learn, whose nodes come before their children, to leaves."""
    left, right = fitted.children_left, fitted.children_right
    inside = np.ones((fitted.node_count, points.shape[1]), dtype=bool)
    for node in np.flatnonzero(left >= 0):
        column, threshold = points[fitted.feature[node]], fitted.threshold[node]
        # NaN compares false to everything: values of other axes stay.
        inside[left[node]] = inside[node] & ~(column > threshold)
        inside[right[node]] = inside[node] & ~(column <= threshold)
    leaves = np.flatnonzero(left < 0)
    ends = np.cumsum([len(axis.values) for axis in axes])[:-1]
    return Tree(fitted.value[leaves, 0, 0], tuple(np.split(inside[leaves], ends, axis=1)))


def _number(value: Scalar) -> float:
    assert isinstance(value, int | float)
    return float(value)


def _varies(space: AnySpace) -> bool:
    if isinstance(space, CategoricalSpace):
        return len(space.choices) > 1
    return space.low < space.high


def _fits(space: AnySpace, value: Scalar) -> bool:
    if not isinstance(space, CategoricalSpace) and isinstance(value, bool):
        return False
    return contains(space, value)


def _thinned(rows: Sequence[Row]) -> Sequence[Row]:
    stride = max(len(rows) / MOST_TRIALS, 1.0)
    return [rows[math.floor(index * stride)] for index in range(min(len(rows), MOST_TRIALS))]
