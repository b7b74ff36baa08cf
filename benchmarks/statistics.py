"""How often the verdict's statistics are wrong: ``python -m benchmarks.statistics --json FILE``.

Simulated pairs of arms, scored on the same documents with the same number of seeds. By design
(seeds, documents, kind of score, how much seeds differ):

- ``false_better_rate``: how often an arm is called better than one that is its equal,
  ``false_rate`` how often better or worse, and ``family_rate`` how often any of three pairs is so
  after Holm's procedure;
- ``coverage``: how often the 95 % interval of the difference holds the true one, and
  ``coverage_mean`` that of one arm's mean;
- ``power``: how often a difference as large as ``smallest_difference`` is detected, for a
  power of 0.8;
- ``false_equivalent_rate``: how often arms are called equivalent that differ by just the margin,
  which is that same difference;
- for comparison, what is not used: ``pooled``, a test that takes every seed's answer to a document
  for a document of its own (McNemar's for answers that are right or wrong), and ``nested``, the
  coverage of a bootstrap that draws documents anew for each seed.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from scipy import stats

from sweeper.analysis.stats.crossed_effects import Documents, Matrix, estimate
from sweeper.analysis.stats.significance import (
    ALPHA,
    conclude,
    holm,
    p_value,
    smallest_difference,
)

DRAWS = 400
NESTED_DRAWS = 200
COVERED = (0.93, 0.97)
"""What an interval of 95 % is to hold."""
MORE = 5
RATES = ("false_better_rate", "false_rate", "family_rate", "coverage", "coverage_mean", "power")
RATES += ("false_equivalent_rate", "pooled", "nested")


@dataclass(frozen=True)
class Design:
    """Simulated design; standard deviations of an arm's effects, where that of documents is 1."""

    seeds: int
    documents: int
    score: Literal["number", "right or wrong"]
    seed: float
    """Standard deviation of a seed's quality."""
    right: float = 0.5
    """Share of right answers."""
    cluster: int = 1
    """Documents that belong together."""
    tasks: int = 1
    """Tasks of equal weight; each has half as many documents as the one before."""
    document: float = 0.5
    """Standard deviation of what one arm finds easier than the other, by document."""
    rest: float = 0.7

    @property
    def binary(self) -> bool:
        """True if answers are right or wrong."""
        return self.score == "right or wrong"

    def columns(self) -> Documents:
        """Return the documents' weights in the mean."""
        if self.cluster == self.tasks == 1:
            count = self.documents
            return Documents(np.full(count, 1 / count), np.zeros(count, np.intp), np.arange(count))
        shares = 0.5 ** np.arange(self.tasks)
        ends = np.cumsum(shares / shares.sum()) * self.documents
        task = np.searchsorted(ends, np.arange(self.documents) + 0.5)
        sizes = np.bincount(task)
        groups = [str(number // self.cluster) for number in range(self.documents)]
        return Documents.of_tasks([str(number) for number in task], list(1.0 / sizes[task]), groups)

    def spread(self) -> float:
        """Return the standard deviation of the quality that decides between right and wrong."""
        return math.sqrt(1 + self.document**2 + self.seed**2 + self.rest**2)

    def arms(self, rng: np.random.Generator, *leads: float) -> list[Matrix]:
        """Scores of arms that are ahead by ``leads`` in the latent quality."""
        # Documents of a cluster have half of the variance of their difficulty in common.
        groups = np.arange(self.documents) // self.cluster

        def effect(deviation: float) -> Matrix:
            own = rng.normal(0, deviation, self.documents)
            if self.cluster == 1:
                return own[None]
            common = rng.normal(0, deviation, groups[-1] + 1)[groups]
            return ((own + common) / math.sqrt(2))[None]

        difficulty = effect(1.0) + self.spread() * stats.norm.ppf(self.right)
        found = []
        for lead in leads:
            latent = lead + difficulty + effect(self.document)
            latent = latent + rng.normal(0, self.seed, (self.seeds, 1))
            latent = latent + rng.normal(0, self.rest, (self.seeds, self.documents))
            found.append((latent > 0).astype(float) if self.binary else latent)
        return found

    def predicted(self, rng: np.random.Generator) -> tuple[float, float]:
        """Return the lead, latent and in the score, that is detected with a power of 0.8."""
        lead = size = 0.0
        # Of right and wrong answers the variances follow from the lead, and the lead from them.
        for _ in range(3 if self.binary else 1):
            size = self._shown(rng, lead)
            if not self.binary:
                return size, size
            ahead = stats.norm.ppf(min(self.right + size, 0.999)) - stats.norm.ppf(self.right)
            lead = float(ahead) * self.spread()
        return lead, size

    def _shown(self, rng: np.random.Generator, lead: float) -> float:
        """Return the measured difference if an arm is ahead by ``lead``."""
        # What is left of each variance, from many seeds and documents that stand for themselves.
        seeds, documents = 400, 1_500
        many = replace(self, seeds=seeds, documents=documents, cluster=1, tasks=1)
        found = np.subtract(*many.arms(rng, lead, 0.0))
        rows, columns = found.mean(axis=1), found.mean(axis=0)
        rest = float((found - rows[:, None] - columns + found.mean()).var())
        by_row = max(float(rows.var()) - rest / documents, 0.0)
        of_seeds = by_row if self.binary else 2 * self.seed**2
        of_documents = max(float(columns.var()) - rest / seeds, 0.0)
        # Documents of small tasks tell as much as fewer that count alike; of what documents that
        # belong together have in common, there are only so many draws as clusters.
        worth = 1 / float((self.columns().weights ** 2).sum())
        of_documents *= (1 + self.cluster) / 2
        return smallest_difference(
            of_seeds, of_documents, rest, seeds=self.seeds, documents=round(worth)
        )


def nested_interval(scores: Matrix, rng: np.random.Generator) -> tuple[float, float]:
    """Return the interval of a bootstrap that draws documents anew for each drawn seed."""
    seeds, documents = scores.shape
    rows = rng.integers(0, seeds, (NESTED_DRAWS, seeds))
    columns = rng.integers(0, documents, (NESTED_DRAWS, seeds, documents))
    means = scores[rows[:, :, None], columns].mean(axis=(1, 2))
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def pooled_p(ours: Matrix, theirs: Matrix, *, binary: bool) -> float:
    """Return p of a test that treats each seed's answer as a document of its own."""
    if binary:
        won, lost = int((ours > theirs).sum()), int((ours < theirs).sum())
        return float(stats.binomtest(won, won + lost).pvalue) if won + lost else 1.0
    return float(stats.ttest_1samp((ours - theirs).ravel(), 0.0).pvalue)


def simulate(design: Design, times: int) -> dict[str, Any]:
    """Return the rates of one design; slow ones from a part of the simulations.

    A coverage outside ``COVERED`` is simulated ``MORE`` times as often, to tell chance from fault.
    """
    rng = np.random.default_rng(list(repr(design).encode()))
    documents = design.columns()
    lead, margin = design.predicted(rng)
    true_mean = design.right if design.binary else design.spread() * stats.norm.ppf(design.right)
    held: dict[str, list[bool]] = {name: [] for name in RATES}
    for number in range(times):
        arms = design.arms(rng, 0.0, 0.0, 0.0, 0.0, lead)
        differences = [estimate(arms[0] - arm, documents, draws=0) for arm in arms[1:4]]
        p_values = [p_value(difference) for difference in differences]
        first = conclude(differences[0], p_values[0], None)
        held["false_better_rate"].append(first == "better")
        held["false_rate"].append(first in ("better", "worse"))
        held["family_rate"].append(min(holm(p_values)) <= ALPHA)
        better = estimate(arms[4] - arms[0], documents, draws=0)
        held["power"].append(conclude(better, p_value(better), None) == "better")
        held["false_equivalent_rate"].append(conclude(better, 1.0, margin) == "equivalent")
        for name, scores, truth in covered(arms, true_mean):
            low, high = interval(scores, documents, number)
            held[name].append(low <= truth <= high)
        if number % 4 == 0:
            held["pooled"].append(pooled_p(arms[0], arms[1], binary=design.binary) <= ALPHA)
        if number % 20 == 0:
            low, high = nested_interval(arms[0] - arms[1], rng)
            held["nested"].append(low <= 0 <= high)
    outside = [
        name
        for name in ("coverage", "coverage_mean")
        if not COVERED[0] <= np.mean(held[name]) <= COVERED[1]
    ]
    for number in range(times, MORE * times if outside else times):
        for name, scores, truth in covered(design.arms(rng, 0.0, 0.0), true_mean):
            if name in outside:
                low, high = interval(scores, documents, number)
                held[name].append(low <= truth <= high)
    rates = {name: round(float(np.mean(found)), 4) for name, found in held.items()}
    return {**asdict(design), **rates}


def covered(arms: Sequence[Matrix], mean: float) -> Iterator[tuple[str, Matrix, float]]:
    """Return an interval's data, and the value that it should hold."""
    yield "coverage", arms[0] - arms[1], 0.0
    yield "coverage_mean", arms[0], mean


def interval(scores: Matrix, documents: Documents, number: int) -> tuple[float, float]:
    """As the verdict has it, from fewer resamples."""
    found = estimate(scores, documents, seed=number, draws=DRAWS)
    return found.low, found.high


def designs() -> Iterator[Design]:
    """Yield all simulated designs."""
    kinds: tuple[Literal["number"], Literal["right or wrong"]] = ("number", "right or wrong")
    for seeds, documents, score, deviation in itertools.product(
        (3, 5, 10), (100, 500), kinds, (0.0, 0.1, 0.3)
    ):
        yield Design(seeds, documents, score, deviation)
    for seeds, deviation in itertools.product((3, 5), (0.0, 0.1)):
        for score in kinds:
            yield Design(seeds, 40, score, deviation)
        yield Design(seeds, 200, "number", deviation, cluster=4)
        yield Design(seeds, 210, "number", deviation, tasks=3)
        yield Design(seeds, 300, "right or wrong", deviation, right=0.9)
    for seeds, deviation in itertools.product((3, 10), (0.03, 1.0)):
        yield Design(seeds, 500, "number", deviation)


def main() -> None:
    """Simulate all designs, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--times", type=int, default=2_000)
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    columns = ["seeds", "documents", "score", "right", "cluster", "tasks", "seed", *RATES]
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}", flush=True)
    with ProcessPoolExecutor(options.workers) as pool:
        for row in pool.map(simulate, designs(), itertools.repeat(options.times)):
            rows.append(row)
            shown = [f"{row[name]:.3f}" if name in RATES else str(row[name]) for name in columns]
            print(f"| {' | '.join(shown)} |", flush=True)
    if options.json:
        found = {"times": options.times, "designs": rows}
        options.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    for name in RATES:
        rates = [row[name] for row in rows]
        print(f"{name}: {min(rates):.3f} to {max(rates):.3f}")


if __name__ == "__main__":
    main()
