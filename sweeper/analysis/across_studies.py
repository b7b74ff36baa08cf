"""Several studies side by side: their verdicts, what differs between them, and their arms.

Pure functions on records. Arms of different studies are compared only where their test suites hold
the same documents; studies that are the same but for their seed also tell how far a verdict depends
on it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from pydantic import ValidationError
from scipy import stats

from sweeper.analysis.comparison import Comparison, Score, compare
from sweeper.analysis.stats.crossed_effects import Documents, Matrix, estimate
from sweeper.analysis.stats.significance import Conclusion
from sweeper.analysis.stats.unpaired import estimate_unpaired
from sweeper.analysis.verdict import Interval, PairVerdict, Verdict, arms_at, paired, verdict_of
from sweeper.config.confirm import CostMeasure
from sweeper.config.study import StudyConfig
from sweeper.foundation.secrets import redacted
from sweeper.records import Record
from sweeper.records.study_record import ConfirmationScores, ConfirmedWinner, StudyRecord

WITHOUT_EFFECT = ("study", "seed", "compute", "storage", "tracking")
"""What may differ between studies that are the same but for their seed."""


class StudySummary(Record):
    """What one study found."""

    study: str
    seed: int
    best_arm: str | None
    """By the selection suite: with new seeds, if the winners were trained again."""
    selection: Score | None
    """Its best score in the search."""
    test: Interval | None
    gap_closed: float | None
    """On the test suite, if it was scored there, else on the selection suite."""
    device_seconds: float | None
    """Of one training with its scoring."""
    pairs: tuple[PairVerdict, ...]
    """Its verdict; none before winners were scored on the test suite."""


class Setting(Record):
    """A key that is not the same in all studies."""

    key: str
    values: tuple[Any, ...]
    """By study; None where a study does not have it."""


class AcrossPair(Record):
    """An arm of one study against an arm of another one, on the same documents."""

    study: str
    arm: str
    against_study: str
    against_arm: str
    difference: float
    """In the suite's units: where lower is better, a negative one is a lead."""
    interval: tuple[float, float]
    """95 %; not corrected for the number of comparisons."""
    stderr: float
    seeds: tuple[int, int]
    documents: int


class Replication(Record):
    """One comparison of a study, over studies that are the same but for their seed."""

    studies: tuple[str, ...]
    arm: str
    """The arm's name, or ``best gkd arm`` where the studies found different ones best."""
    against: str
    at: CostMeasure
    differences: tuple[float, ...]
    """By study."""
    conclusions: dict[Conclusion, int]
    """How many of the studies came to each."""
    mean: float
    deviation: float
    """The standard deviation of the differences between studies."""
    interval: tuple[float, float]
    """95 %, of the mean over all study seeds."""
    same_documents: bool
    """Whether the interval is also one for other documents."""


class StudiesComparison(Record):
    """Several studies side by side."""

    studies: tuple[StudySummary, ...]
    same: tuple[str, ...]
    """The top-level keys that are the same in all studies."""
    different: tuple[Setting, ...]
    relation: Literal["seeds", "different"]
    """Whether nothing that has an effect differs but the seed."""
    replications: tuple[Replication, ...]
    across: tuple[AcrossPair, ...]
    """Arms of each study against those of the first one."""
    refused: tuple[str, ...]
    """Which studies' arms do not compare with those of the first one, and why."""


def compare_studies(records: Sequence[StudyRecord]) -> StudiesComparison:
    """Set studies side by side.

    Args:
        records: Two or more; arms are compared with those of the first.
    """
    comparisons = [compare(record) for record in records]
    verdicts = [
        verdict_of(record, comparison.best_gkd)
        for record, comparison in zip(records, comparisons, strict=True)
    ]
    summaries = tuple(map(_summary, records, comparisons, verdicts))
    described = [_described(record) for record in records]
    same, different = _differences(described)
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


_IGNORED = (*WITHOUT_EFFECT, "hardware", "versions")


def _summary(record: StudyRecord, comparison: Comparison, verdict: Verdict | None) -> StudySummary:
    seed = int(record.config.get("seed", 0))
    leader = comparison.arm(comparison.leaders[0]) if comparison.leaders else None
    if verdict is None or not (arms := verdict.at("steps")):
        best = leader.best if leader else None
        return StudySummary(
            study=record.study,
            seed=seed,
            best_arm=leader.name if leader else None,
            selection=leader.best_score if leader else None,
            test=None,
            gap_closed=leader.gap_closed if leader else None,
            device_seconds=best.outcome.cost.device_seconds if best and best.outcome else None,
            pairs=(),
        )
    sign = 1 if record.higher_is_better else -1
    winner = max(arms, key=lambda arm: sign * arm.selection)
    return StudySummary(
        study=record.study,
        seed=seed,
        best_arm=winner.arm,
        selection=comparison.arm(winner.arm).best_score,
        test=winner.test,
        gap_closed=winner.gap_closed,
        device_seconds=winner.device_seconds,
        pairs=verdict.pairs,
    )


def _described(record: StudyRecord) -> dict[str, Any]:
    """The study file with what tells the content of its files, and the machine."""
    provenance = record.provenance
    contents = {f"{role} suite": digest[:12] for role, digest in provenance.suite_hashes.items()}
    if record.data is not None:
        contents["data"] = record.data.fingerprint[:12]
    described: dict[str, Any] = {
        **redacted(_with_defaults(record.config)),
        "contents": contents,
        "hardware": provenance.hardware,
        "versions": provenance.versions,
    }
    return described


def _with_defaults(config: dict[str, Any]) -> dict[str, Any]:
    """A study file with every key, so that one that is left out is no other value."""
    try:
        return StudyConfig.model_validate(config).model_dump(mode="json")
    except ValidationError:  # of another version, or with a secret hidden that has to be a number
        return config


def _differences(
    described: Sequence[Mapping[str, Any]],
) -> tuple[tuple[str, ...], tuple[Setting, ...]]:
    """The top-level keys that are the same, and every key below that is not."""
    keys = dict.fromkeys(key for one in described for key in one)
    same = [key for key in keys if all(one.get(key) == described[0].get(key) for one in described)]
    flat = [dict(_flat(one)) for one in described]
    different = []
    for key in dict.fromkeys(key for one in flat for key in one):
        values = tuple(one.get(key) for one in flat)
        if any(value != values[0] for value in values):
            different.append(Setting(key=key, values=values))
    return tuple(same), tuple(different)


def _flat(values: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        key = f"{before}{name}"
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{key}.")
        else:
            yield key, value


def _not_comparable(first: StudyRecord, other: StudyRecord) -> str:
    """Why arms of two studies cannot be compared document by document; nothing if they can."""
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
    return ""


def _across(
    record: StudyRecord, summary: StudySummary, first: StudyRecord, reference: StudySummary
) -> Iterator[AcrossPair]:
    """The arms that both studies have, and the best arms if they are others."""
    ours, theirs = _scores(record), _scores(first)
    arms = {arm.arm: arm for arm in arms_at(ours, "steps")}
    others = {arm.arm: arm for arm in arms_at(theirs, "steps")}
    named = [(name, name) for name in arms if name in others]
    best = (summary.best_arm, reference.best_arm)
    if best[0] in arms and best[1] in others and best[0] != best[1]:
        named.append((str(best[0]), str(best[1])))
    documents = _documents(ours)
    for name, other in named:
        a, b = arms[name], others[other]
        found = estimate_unpaired(_matrix(a), _matrix(b), documents)
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
    """The comparisons that all studies made, as far as two or more have a verdict."""
    judged = [
        (_scores(record), summary)
        for record, summary in zip(records, summaries, strict=True)
        if summary.pairs
    ]
    if len(judged) < 2:
        return ()
    hashes = {scores.documents_hash for scores, _ in judged}
    same_documents = len(hashes) == 1 and "" not in hashes
    by_pair = _pairs_by_key([summary for _, summary in judged])
    found = []
    for key in by_pair[0]:
        if not all(key in pairs for pairs in by_pair):
            continue
        pairs = [pairs[key] for pairs in by_pair]
        values = np.array([pair.difference for pair in pairs])
        if same_documents:
            # What a seed is to a student, its study's seed is to a study: a row of crossed scores.
            rows = [
                _by_document(scores, pair) for (scores, _), pair in zip(judged, pairs, strict=True)
            ]
            whole = estimate(np.stack(rows), _documents(judged[0][0]))
            interval = (whole.low, whole.high)
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


_Key = tuple[str, str, CostMeasure]


def _pairs_by_key(summaries: Sequence[StudySummary]) -> list[dict[_Key, PairVerdict]]:
    """Each study's comparisons, so that the same ones of other studies have the same key.

    Where every study's claim is about one arm, that arm has the same part in all of them, even if
    one study found another GKD arm best.
    """
    one = all(len({pair.arm for pair in summary.pairs}) == 1 for summary in summaries)
    return [
        {("" if one else pair.arm, pair.against, pair.at): pair for pair in summary.pairs}
        for summary in summaries
    ]


def _by_document(scores: ConfirmationScores, pair: PairVerdict) -> Matrix:
    """The difference of a pair on each document, seeds averaged."""
    arms = {arm.arm: arm for arm in arms_at(scores, pair.at)}
    found = paired(arms[pair.arm], arms[pair.against])
    assert found is not None  # the pair was judged
    difference: Matrix = (found[0] - found[1]).mean(axis=0)
    return difference


def _scores(record: StudyRecord) -> ConfirmationScores:
    assert record.test is not None and record.test.scores is not None
    return record.test.scores


def _documents(scores: ConfirmationScores) -> Documents:
    return Documents.of_tasks(scores.tasks, scores.shares, scores.clusters)


def _matrix(arm: ConfirmedWinner) -> Matrix:
    return np.asarray(arm.scores, dtype=float)
