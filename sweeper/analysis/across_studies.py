"""Comparison of several studies: their verdicts, their differences, and their arms.

Arms of different studies are compared only where their test suites hold the same documents.
Studies that differ only in their seed also show how far a verdict depends on it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from pydantic import ValidationError
from scipy import stats

from sweeper.analysis.comparison import Score, compare
from sweeper.analysis.pair import PairSummary, summarize_pairs
from sweeper.analysis.scoring_dtype import UNDECLARED, scoring_dtype
from sweeper.analysis.scoring_engine import scoring_engine
from sweeper.analysis.stats.crossed_effects import Matrix, estimate
from sweeper.analysis.stats.significance import Conclusion
from sweeper.analysis.stats.unpaired import estimate_unpaired
from sweeper.analysis.verdict import arms_at, documents_of, matrix, paired, verdict_of
from sweeper.analysis.verdict_records import Interval, PairVerdict
from sweeper.config.base import dotted
from sweeper.config.confirm import CostMeasure
from sweeper.config.study import StudyConfig
from sweeper.foundation.secrets import redacted
from sweeper.records import Record
from sweeper.records.study_record import ConfirmationScores, StudyRecord

_IGNORED = ("study", "seed", "compute", "storage", "tracking", "hardware", "versions")
"""Keys that may differ between studies that count as differing only in their seed."""


class StudySummary(Record):
    """Result of one study."""

    study: str
    seed: int
    best_arm: str | None
    """Best arm on the selection suite, with new seeds if the winners were retrained."""
    selection: Score | None
    """Best score of that arm in the search."""
    test: Interval | None
    gap_closed: float | None
    """Gap closed on the test suite if it was scored there, else on the selection suite."""
    device_seconds: float | None
    """Device-seconds of one training with its scoring."""
    pairs: tuple[PairVerdict, ...]
    """Comparisons of its verdict; none before winners were scored on the test suite."""
    teachers: tuple[PairSummary, ...] = ()
    """Diagnosis of its teachers with the starting student, if it was probed."""


class Setting(Record):
    """Key whose value differs between the studies."""

    key: str
    values: tuple[Any, ...]
    """Values by study; None where a study lacks the key."""


class AcrossPair(Record):
    """Comparison of arms of two studies on the same documents."""

    study: str
    arm: str
    against_study: str
    against_arm: str
    difference: float
    """Difference in the suite's units: negative is better where lower is better."""
    interval: tuple[float, float]
    """95 % interval, not corrected for the number of comparisons."""
    stderr: float
    seeds: tuple[int, int]
    documents: int


class Replication(Record):
    """One comparison, over studies that differ only in their seed."""

    studies: tuple[str, ...]
    arm: str
    """Name of the arm, or ``best gkd arm`` where the studies have different best ones."""
    against: str
    at: CostMeasure
    differences: tuple[float, ...]
    """Differences by study."""
    conclusions: dict[Conclusion, int]
    """Number of studies by conclusion."""
    mean: float
    deviation: float
    """Standard deviation of the differences between studies."""
    interval: tuple[float, float]
    """95 % interval of the mean over all study seeds."""
    same_documents: bool
    """True if the interval also holds for other documents."""


class StudiesComparison(Record):
    """Comparison of several studies."""

    studies: tuple[StudySummary, ...]
    same: tuple[str, ...]
    """Top-level keys that are the same in all studies."""
    different: tuple[Setting, ...]
    relation: Literal["seeds", "different"]
    """``seeds`` if nothing that has an effect differs but the seed."""
    replications: tuple[Replication, ...]
    across: tuple[AcrossPair, ...]
    """Arms of each study compared with those of the first one."""
    refused: tuple[str, ...]
    """Studies whose arms do not compare with those of the first one, with the reasons."""


def compare_studies(records: Sequence[StudyRecord]) -> StudiesComparison:
    """Compare two or more studies, and their arms with those of the first."""
    summaries = tuple(map(_summary, records))
    same, different = _differences([_described(record) for record in records])
    only_seeds = not any(setting.key.split(".")[0] not in _IGNORED for setting in different)
    across: list[AcrossPair] = []
    refused: list[str] = []
    for record, summary in zip(records[1:], summaries[1:], strict=True):
        if reason := _not_comparable(records[0], record):
            refused.append(f"{record.study} and {records[0].study}: {reason}")
        else:
            across += _across(record, summary, records[0], summaries[0])
    return StudiesComparison(
        studies=summaries,
        same=same,
        different=different,
        relation="seeds" if only_seeds else "different",
        replications=_replications(records, summaries) if only_seeds else (),
        across=tuple(across),
        refused=tuple(refused),
    )


def _summary(record: StudyRecord) -> StudySummary:
    comparison = compare(record)
    verdict = verdict_of(record, comparison.best_gkd)
    sign = 1 if record.higher_is_better else -1
    confirmed = verdict.at("steps") if verdict else []
    winner = max(confirmed, key=lambda arm: sign * arm.selection, default=None)
    name = winner.arm if winner else next(iter(comparison.leaders), None)
    arm = comparison.arm(name) if name else None
    best = arm.best.outcome if arm and arm.best else None
    seconds = best.cost.device_seconds if best else None
    source = winner or arm
    return StudySummary(
        study=record.study,
        seed=int(record.config.get("seed", 0)),
        best_arm=name,
        selection=arm.best_score if arm else None,
        test=winner.test if winner else None,
        gap_closed=source.gap_closed if source else None,
        device_seconds=winner.device_seconds if winner else seconds,
        pairs=verdict.pairs if verdict and winner else (),
        teachers=summarize_pairs(record.pair) if record.pair else (),
    )


def _described(record: StudyRecord) -> dict[str, Any]:
    """Return the study file with hashes of its files' contents, and the machine."""
    provenance = record.provenance
    contents = {f"{role} suite": digest[:12] for role, digest in provenance.suite_hashes.items()}
    if record.data is not None:
        contents["data"] = record.data.fingerprint[:12]
    config = redacted(_with_defaults(record.config))
    evaluation = {**config.get("evaluation", {}), "dtype": scoring_dtype(record, teacher=False)}
    return {
        **config,
        "evaluation": evaluation,
        "contents": contents,
        "hardware": provenance.hardware,
        "versions": provenance.versions,
    }


def _with_defaults(config: dict[str, Any]) -> dict[str, Any]:
    """Fill in defaults, so that a key that is left out does not count as another value."""
    try:
        return StudyConfig.model_validate(config).model_dump(mode="json")
    except ValidationError:  # of another version, or with a secret hidden that has to be a number
        return config


def _differences(
    described: Sequence[Mapping[str, Any]],
) -> tuple[tuple[str, ...], tuple[Setting, ...]]:
    """Return the top-level keys that are the same, and every key below that is not."""
    keys = dict.fromkeys(key for one in described for key in one)
    same = [key for key in keys if all(one.get(key) == described[0].get(key) for one in described)]
    flat = [dict(dotted(one)) for one in described]
    different = []
    for key in dict.fromkeys(key for one in flat for key in one):
        values = tuple(one.get(key) for one in flat)
        if any(value != values[0] for value in values):
            different.append(Setting(key=key, values=values))
    return tuple(same), tuple(different)


def _not_comparable(first: StudyRecord, other: StudyRecord) -> str:
    """Return why arms cannot be compared document by document; empty if they can."""
    found = [record.test.scores if record.test else None for record in (first, other)]
    if found[0] is None or found[1] is None:
        lacking = [r.study for r, s in zip((first, other), found, strict=True) if s is None]
        return f"no winner of {' and '.join(lacking)} was scored on a test suite."
    hashes = {scores.documents_hash for scores in found if scores}
    if "" in hashes or len(hashes) > 1:
        return (
            "their test suites do not hold the same documents, scored and weighted the same way:"
            " arms cannot be compared in pairs."
        )
    engines = [scoring_engine(record) for record in (first, other)]
    if engines[0] != engines[1]:
        return (
            f"they were scored by {engines[1]} and by {engines[0]}: their scores do not compare."
            " Run one of them again, with the other's evaluation.engine."
        )
    precisions = [scoring_dtype(record, teacher=False) or UNDECLARED for record in (first, other)]
    if precisions[0] != precisions[1]:
        return (
            f"they were scored in {precisions[1]} and in {precisions[0]}: their scores do not"
            " compare. Run one of them again, with the other's evaluation.dtype."
        )
    return ""


def _across(
    record: StudyRecord, summary: StudySummary, first: StudyRecord, reference: StudySummary
) -> Iterator[AcrossPair]:
    """Compare the arms that both studies have, and the best arms if they are others."""
    ours, theirs = _scores(record), _scores(first)
    arms = {arm.arm: arm for arm in arms_at(ours, "steps")}
    others = {arm.arm: arm for arm in arms_at(theirs, "steps")}
    named = [(name, name) for name in arms if name in others]
    best = (summary.best_arm, reference.best_arm)
    if best[0] in arms and best[1] in others and best[0] != best[1]:
        named.append((str(best[0]), str(best[1])))
    documents = documents_of(ours)
    for name, other in named:
        a, b = matrix(arms[name].scores), matrix(others[other].scores)
        found = estimate_unpaired(a, b, documents)
        yield AcrossPair(
            study=record.study,
            arm=name,
            against_study=first.study,
            against_arm=other,
            difference=found.mean,
            interval=(found.low, found.high),
            stderr=found.stderr,
            seeds=found.seeds,
            documents=found.documents,
        )


def _replications(
    records: Sequence[StudyRecord], summaries: Sequence[StudySummary]
) -> tuple[Replication, ...]:
    """Return the comparisons that all studies with a verdict made, if there are two or more."""
    judged = [
        (_scores(record), summary)
        for record, summary in zip(records, summaries, strict=True)
        if summary.pairs
    ]
    if len(judged) < 2:
        return ()
    hashes = {scores.documents_hash for scores, _ in judged}
    same_documents = len(hashes) == 1 and "" not in hashes
    # Where each study is about one arm, the key lacks it: best GKD arms may differ.
    single = all(len({pair.arm for pair in summary.pairs}) == 1 for _, summary in judged)
    by_pair = [
        {("" if single else pair.arm, pair.against, pair.at): pair for pair in summary.pairs}
        for _, summary in judged
    ]
    found = []
    for key in by_pair[0]:
        if not all(key in pairs for pairs in by_pair):
            continue
        pairs = [pairs[key] for pairs in by_pair]
        values = np.array([pair.difference for pair in pairs])
        if same_documents:
            # A study's seed plays the role that a seed plays within a study: a row of scores.
            rows = [
                _by_document(scores, pair) for (scores, _), pair in zip(judged, pairs, strict=True)
            ]
            crossed = estimate(np.stack(rows), documents_of(judged[0][0]))
            interval = (crossed.low, crossed.high)
        else:
            half = float(stats.t.isf(0.025, len(values) - 1)) * float(stats.sem(values))
            interval = (float(values.mean()) - half, float(values.mean()) + half)
        arms = {pair.arm for pair in pairs}
        found.append(
            Replication(
                studies=tuple(summary.study for _, summary in judged),
                arm=arms.pop() if len(arms) == 1 else "best gkd arm",
                against=pairs[0].against,
                at=pairs[0].at,
                differences=tuple(values.tolist()),
                conclusions=dict(Counter(pair.conclusion for pair in pairs)),
                mean=float(values.mean()),
                deviation=float(values.std(ddof=1)),
                interval=interval,
                same_documents=same_documents,
            )
        )
    return tuple(found)


def _by_document(scores: ConfirmationScores, pair: PairVerdict) -> Matrix:
    """Return the difference of a pair on each document, seeds averaged."""
    found = paired(scores, pair.at, pair.arm, pair.against)
    assert found is not None  # the pair was judged
    difference: Matrix = (found[0] - found[1]).mean(axis=0)
    return difference


def _scores(record: StudyRecord) -> ConfirmationScores:
    assert record.test is not None and record.test.scores is not None
    return record.test.scores
