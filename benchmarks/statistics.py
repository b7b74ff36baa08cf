"""How often the verdict's statistics are wrong: ``python -m benchmarks.statistics --json FILE``.

Simulated pairs of arms, scored on the same documents with the same number of seeds. By design
(seeds, documents, kind of score, how much seeds differ):

- ``false_better_rate``: how often an arm is called better than one that is its equal, and
  ``false_rate`` how often better or worse;
- ``coverage``: how often the 95 % interval of the difference holds the true one, and
  ``coverage_mean`` that of one arm's mean;
- ``power``: how often a difference is found that is as large as ``smallest_difference`` says, for a
  power of 0.8;
- ``permutation``: how often the permutation test calls equal arms different;
- for comparison, what is not used: ``pooled``, a test that takes every seed's answer to a document
  for a document of its own (McNemar's for answers that are right or wrong), and ``nested``, the
  coverage of a bootstrap that draws documents anew for each seed.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from benchmarks.engine import say
from sweeper.analysis.crossed import Documents, Matrix, estimate
from sweeper.analysis.significance import (
    ALPHA,
    conclude,
    exact_mcnemar,
    p_value,
    permutation_p,
    smallest_difference,
)

NESTED_DRAWS = 400
PERMUTATIONS = 199
RATES = ("false_better_rate", "false_rate", "coverage", "coverage_mean", "power")
RATES += ("permutation", "pooled", "nested")


@dataclass(frozen=True)
class Design:
    """What is simulated; standard deviations of one arm's effects, where documents' is 1."""

    seeds: int
    documents: int
    binary: bool
    seed: float
    """Of a seed's quality."""
    document: float = 0.5
    """Of what one arm finds easier than the other, by document."""
    rest: float = 0.7

    def arms(self, rng: np.random.Generator, ahead: float = 0.0) -> tuple[Matrix, Matrix]:
        """Scores of two arms, the first ``ahead`` of the other in the latent quality."""
        shape = (self.seeds, self.documents)
        difficulty = rng.normal(0, 1, (1, self.documents))

        def one(shift: float) -> Matrix:
            latent = shift + difficulty + rng.normal(0, self.document, (1, self.documents))
            latent = latent + rng.normal(0, self.seed, (self.seeds, 1))
            latent = latent + rng.normal(0, self.rest, shape)
            return (latent > 0).astype(float) if self.binary else latent

        return one(ahead), one(0.0)

    def predicted(self, rng: np.random.Generator) -> float:
        """The latent lead that should be found with a power of 0.8."""
        if not self.binary:
            return smallest_difference(
                2 * self.seed**2,
                2 * self.document**2,
                2 * self.rest**2,
                seeds=self.seeds,
                documents=self.documents,
            )
        # What right and wrong answers leave of each variance, from many seeds and documents.
        many = Design(60, 6_000, True, self.seed, self.document, self.rest)
        ours, theirs = many.arms(rng)
        found = ours - theirs
        rows, columns = found.mean(axis=1), found.mean(axis=0)
        rest = float((found - rows[:, None] - columns + found.mean()).var())
        size = smallest_difference(
            max(float(rows.var()) - rest / 6_000, 0.0),
            max(float(columns.var()) - rest / 60, 0.0),
            rest,
            seeds=self.seeds,
            documents=self.documents,
        )
        spread = math.sqrt(1 + self.document**2 + self.seed**2 + self.rest**2)
        return float(stats.norm.ppf(0.5 + size)) * spread


def nested_interval(scores: Matrix, rng: np.random.Generator) -> tuple[float, float]:
    """Of a bootstrap that draws seeds, and for each of them documents anew."""
    seeds, documents = scores.shape
    rows = rng.integers(0, seeds, (NESTED_DRAWS, seeds))
    columns = rng.integers(0, documents, (NESTED_DRAWS, seeds, documents))
    means = scores[rows[:, :, None], columns].mean(axis=(1, 2))
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def pooled_p(ours: Matrix, theirs: Matrix, *, binary: bool) -> float:
    """A test that takes each seed's answer for a document of its own."""
    if binary:
        return exact_mcnemar(ours.ravel() > 0, theirs.ravel() > 0)
    return float(stats.ttest_1samp((ours - theirs).ravel(), 0.0).pvalue)


def simulate(design: Design, times: int) -> dict[str, Any]:
    """The rates of one design."""
    entropy = [design.seeds, design.documents, design.binary, round(1000 * design.seed)]
    rng = np.random.default_rng(entropy)
    documents = Documents.alike(design.documents)
    counted = dict.fromkeys(
        ("better", "false", "covered", "covered_mean", "found", "permuted", "pooled", "nested"), 0
    )
    truth = 0.5 if design.binary else 0.0
    ahead = design.predicted(rng)
    few = max(times // 5, 1)
    for number in range(times):
        ours, theirs = design.arms(rng)
        difference = estimate(ours - theirs, documents, seed=number, draws=1_000)
        conclusion = conclude(difference, p_value(difference), None)
        counted["better"] += conclusion == "better"
        counted["false"] += conclusion in ("better", "worse")
        counted["covered"] += difference.low <= 0 <= difference.high
        mean = estimate(ours, documents, seed=number, draws=1_000)
        counted["covered_mean"] += mean.low <= truth <= mean.high
        counted["pooled"] += pooled_p(ours, theirs, binary=design.binary) <= ALPHA
        better = estimate(np.subtract(*design.arms(rng, ahead)), documents, draws=0)
        counted["found"] += conclude(better, p_value(better), None) == "better"
        if number < few:
            low, high = nested_interval(ours - theirs, rng)
            counted["nested"] += low <= 0 <= high
            permuted = permutation_p(ours - theirs, documents, draws=PERMUTATIONS, seed=number)
            counted["permuted"] += permuted <= ALPHA
    return {
        "seeds": design.seeds,
        "documents": design.documents,
        "score": "right or wrong" if design.binary else "number",
        "seed_deviation": design.seed,
        "false_better_rate": counted["better"] / times,
        "false_rate": counted["false"] / times,
        "coverage": counted["covered"] / times,
        "coverage_mean": counted["covered_mean"] / times,
        "power": counted["found"] / times,
        "permutation": counted["permuted"] / few,
        "pooled": counted["pooled"] / times,
        "nested": counted["nested"] / few,
    }


def main() -> None:
    """Simulate all designs, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--times", type=int, default=2_000)
    options = parser.parse_args()
    rows = []
    columns = ["seeds", "documents", "score", "seed_deviation", *RATES]
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}", flush=True)
    for seeds, documents, binary, deviation in itertools.product(
        (3, 5, 10), (100, 500), (True, False), (0.0, 0.1, 0.3)
    ):
        row = simulate(Design(seeds, documents, binary, deviation), options.times)
        rows.append(row)
        shown = [f"{row[name]:.3f}" if name in RATES else str(row[name]) for name in columns]
        print(f"| {' | '.join(shown)} |", flush=True)
        if options.json:
            found = {"times": options.times, "designs": rows}
            options.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    worst = max(row["false_better_rate"] for row in rows)
    covered = [row["coverage"] for row in rows]
    say(f"false better at most {worst:.3f}; coverage {min(covered):.3f} to {max(covered):.3f}")


if __name__ == "__main__":
    main()
