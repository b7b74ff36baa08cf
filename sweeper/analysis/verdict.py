"""Verdict: each arm's winner on the test suite, and the differences between winners.

Arms are compared pair by pair, on the same documents with the same seeds. The primary comparisons
are those that the study declares. By default they are the best GKD arm against each offline arm or,
where a study has only one kind, all pairs. Holm's procedure keeps the chance of a single false
conclusion among them at ``significance.ALPHA``.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache

import numpy as np

from sweeper.analysis.stats.crossed_effects import Documents, Matrix, estimate
from sweeper.analysis.stats.fieller import ratio_interval
from sweeper.analysis.stats.significance import (
    ALPHA,
    conclude,
    equivalence_p,
    holm,
    p_value,
)
from sweeper.analysis.verdict_records import ArmVerdict, Interval, PairVerdict, Verdict
from sweeper.config.compare import BASELINES
from sweeper.config.confirm import CostMeasure
from sweeper.config.settings import OFFLINE_METHODS, Method
from sweeper.config.study import StudyConfig
from sweeper.records.seeds import verdict_seed
from sweeper.records.study_record import ConfirmationScores, ConfirmedWinner, StudyRecord

TEST = "crossed random-effects t test, two-sided"
"""Test whose p enters Holm's procedure."""


@lru_cache(maxsize=2)
def judge(
    scores: ConfirmationScores,
    measures: tuple[CostMeasure, ...],
    margin: float | None,
    *,
    best_gkd: str | None,
    seed: int = 0,
) -> Verdict:
    """Compare the arms' winners; cached, as several outputs need it and it takes seconds.

    Args:
        scores: Scores of the winners by document.
        measures: Measures of cost at which the arms are compared; ``steps`` first.
        margin: Difference that is too small to matter.
        best_gkd: GKD arm of the primary comparisons: the best on the selection suite.
        seed: Seed of the resampling.
    """
    documents = documents_of(scores)
    sign = 1.0 if scores.higher_is_better else -1.0
    teacher, start = (
        None if end is None else _estimated(matrix([end]), documents, seed)
        for end in (scores.teacher, scores.starting_student)
    )
    shared = {arm.arm: arm.sharing for arm in scores.arms if arm.sharing > 1}
    missing = list(scores.missing)
    if shared and "device_seconds" in measures:
        missing.append(_not_timed(shared))
    arms = tuple(_arm(arm, scores, documents, teacher, start, seed) for arm in scores.arms)
    pairs: list[PairVerdict] = []
    for at in measures:
        if at != "steps" and not any(arm.at == at for arm in scores.arms):
            continue
        left_out = shared if at == "device_seconds" else ()
        pairs += _compare(scores, at, documents, margin, best_gkd, sign, seed, left_out)
    judged = {(pair.arm, pair.against) for pair in pairs}
    for ours, theirs in scores.compare or ():
        if (ours, theirs) not in judged:
            missing.append(f"{ours} and {theirs} were not compared: they lack scores to pair.")
    return Verdict(
        suite=scores.suite,
        higher_is_better=scores.higher_is_better,
        margin=margin,
        arms=arms,
        pairs=tuple(pairs),
        teacher=teacher,
        starting_student=start,
        looks=scores.looks,
        missing=tuple(missing),
        declared=scores.compare is not None,
        revised=scores.revised,
    )


def verdict_of(record: StudyRecord, best_gkd: str | None) -> Verdict | None:
    """Return the verdict of a study, once winners were scored on its test suite."""
    if record.test is None or record.test.scores is None:
        return None
    default = StudyConfig.model_fields["compare_at"].default
    return judge(
        record.test.scores,
        tuple(record.config.get("compare_at", default)),
        record.config.get("margin"),
        best_gkd=best_gkd,
        seed=verdict_seed(record.config.get("seed", 0)),
    )


def arms_at(scores: ConfirmationScores, at: CostMeasure) -> list[ConfirmedWinner]:
    """Return the arms to compare at ``at``; an arm without a training for it has its own."""
    own = {arm.arm: arm for arm in scores.arms if arm.at == "steps"}
    return list((own | {arm.arm: arm for arm in scores.arms if arm.at == at}).values())


def paired(
    scores: ConfirmationScores, at: CostMeasure, ours: str, theirs: str
) -> tuple[Matrix, Matrix] | None:
    """Return the scores of two arms, (seeds, documents), for the seeds that both have.

    Teacher and start have the same scores with every seed. Only the equal steps of the search are
    a cost at which an arm is compared with them.
    """
    arms = {arm.arm: arm for arm in arms_at(scores, at)}
    fixed = {"teacher": scores.teacher, "start": scores.starting_student} if at == "steps" else {}
    trained = [arms[name] for name in (ours, theirs) if name in arms]
    common = [
        seed
        for seed in (trained[0].seeds if trained else ())
        if all(seed in arm.seeds for arm in trained)
    ]
    if not common:
        return None

    def rows(name: str) -> Matrix | None:
        if (arm := arms.get(name)) is not None:
            return matrix([arm.scores[arm.seeds.index(seed)] for seed in common])
        end = fixed.get(name)
        return None if end is None else matrix([end] * len(common))

    a, b = rows(ours), rows(theirs)
    return None if a is None or b is None else (a, b)


def primary_comparisons(
    methods: Mapping[str, Method],
    best_gkd: str | None,
    declared: Sequence[tuple[str, str]] | None = None,
) -> list[tuple[str, str]]:
    """Return the pairs that a study compares: those ``declared``, or those of the default rule.

    Args:
        methods: Methods of the arms with a winner.
        best_gkd: GKD arm of the default rule, which comes first in its pairs.
        declared: Comparisons of the study file; those of an arm without a winner are left out.
    """
    if declared is not None:
        known = {*methods, *BASELINES}
        return [pair for pair in declared if known.issuperset(pair)]
    offline = [name for name, method in methods.items() if method in OFFLINE_METHODS]
    if best_gkd is not None and best_gkd in methods and offline:
        return [(best_gkd, name) for name in offline]
    return list(itertools.combinations(methods, 2))


def matched_arms(methods: Collection[str], pairs: Sequence[tuple[str, str]]) -> set[str]:
    """Return the arms that are compared with other arms, and so at equal cost, too."""
    return {name for pair in pairs if set(pair) <= set(methods) for name in pair}


def _compare(
    scores: ConfirmationScores,
    at: CostMeasure,
    documents: Documents,
    margin: float | None,
    best_gkd: str | None,
    sign: float,
    seed: int,
    left_out: Collection[str],
) -> list[PairVerdict]:
    methods = {arm.arm: arm.method for arm in arms_at(scores, at)}
    pairs = [
        (*names, *pair)
        for names in primary_comparisons(methods, best_gkd, scores.compare)
        if not set(names) & set(left_out) and (pair := paired(scores, at, *names))
    ]
    differences = [estimate(a - b, documents, seed=seed) for _, _, a, b in pairs]
    p_values = [p_value(difference) for difference in differences]
    verdicts = []
    for (ours, theirs, a, b), difference, p, adjusted in zip(
        pairs, differences, p_values, holm(p_values), strict=True
    ):
        advantage = replace(difference, mean=sign * difference.mean)
        verdicts.append(
            PairVerdict(
                arm=ours,
                against=theirs,
                at=at,
                difference=difference.mean,
                interval=(difference.low, difference.high),
                stderr=difference.stderr,
                seeds=difference.seeds,
                documents=difference.documents,
                p=p,
                p_adjusted=adjusted,
                test=TEST,
                p_equivalence=None if margin is None else equivalence_p(advantage, margin),
                effect=_effect(a, b, documents),
                comparisons=len(pairs),
                conclusion=conclude(advantage, adjusted, margin),
            )
        )
    return verdicts


def _not_timed(shared: Mapping[str, int]) -> str:
    """Say why arms are in no comparison at equal device-seconds.

    Args:
        shared: Number of jobs that ran on a GPU at a time, by arm.
    """
    return (
        f"{', '.join(shared)}: not compared at equal device-seconds, because up to"
        f" {max(shared.values())} jobs shared a GPU, and each one's seconds depend on the others."
    )


def _arm(
    arm: ConfirmedWinner,
    scores: ConfirmationScores,
    documents: Documents,
    teacher: Interval | None,
    start: Interval | None,
    seed: int,
) -> ArmVerdict:
    ours = matrix(arm.scores)
    found = _estimated(ours, documents, seed)
    selection = float(np.mean(arm.selection))
    gap = interval = None
    if teacher is not None and start is not None and teacher.mean != start.mean:
        gap = (found.mean - start.mean) / (teacher.mean - start.mean)
        floor = matrix([scores.starting_student or ()])
        interval = ratio_interval(ours - floor, matrix([scores.teacher or ()]) - floor, documents)
    return ArmVerdict(
        arm=arm.arm,
        method=arm.method,
        trial=arm.trial,
        at=arm.at,
        max_steps=arm.max_steps,
        test=found,
        selection=selection,
        inflation=arm.searched - selection,
        gap_closed=gap,
        gap_interval=interval,
        device_seconds=arm.device_seconds,
        trained_tokens=arm.trained_tokens,
        sharing=arm.sharing,
    )


def matrix(rows: Sequence[Sequence[float]]) -> Matrix:
    """Return scores, one row a seed, as a matrix."""
    return np.asarray(rows, dtype=float)


def documents_of(scores: ConfirmationScores) -> Documents:
    """Return the documents of a test suite's scores."""
    return Documents.of_tasks(scores.tasks, scores.shares, scores.clusters)


def _estimated(scores: Matrix, documents: Documents, seed: int) -> Interval:
    """Estimate an arm's mean; the interval of a share of right answers stays within 0 and 1.

    Where all answers are right, or all wrong, it is Clopper and Pearson's (Biometrika 26, 1934).
    """
    found = estimate(scores, documents, seed=seed)
    low, high = found.low, found.high
    if np.isin(scores, (0.0, 1.0)).all():
        low, high = max(low, 0.0), min(high, 1.0)
        error = 1 - (ALPHA / 2) ** (1 / len(np.unique(documents.clusters)))
        if scores.all():
            low = 1 - error
        elif not scores.any():
            high = error
    return Interval(
        mean=found.mean,
        low=low,
        high=high,
        stderr=found.stderr,
        seeds=found.seeds,
        documents=found.documents,
    )


def _effect(ours: Matrix, theirs: Matrix, documents: Documents) -> float | None:
    """Compute Cohen's d with the documents' deviation in both arms, seeds averaged."""
    columns = np.stack([ours.mean(axis=0), theirs.mean(axis=0)])
    means = columns @ documents.weights
    variance = float((((columns - means[:, None]) ** 2) @ documents.weights).mean())
    return float(means[0] - means[1]) / variance**0.5 if variance > 0 else None
