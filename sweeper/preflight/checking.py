"""``sweeper check``: what is known of a study before anything is spent on it."""

from __future__ import annotations

import tempfile
from pathlib import Path

from sweeper.analysis import power
from sweeper.analysis.comparison import compare
from sweeper.analysis.findings import Finding
from sweeper.analysis.power import Design
from sweeper.analysis.verdict import claim, paired
from sweeper.cache import default_root
from sweeper.config.loading import LoadedStudy, LoadedSuite
from sweeper.errors import ConfigError
from sweeper.history import read_preparation, read_study
from sweeper.paths import StudyPaths, read_json_lines
from sweeper.placement import make_executor
from sweeper.preparation import explain, make_origin, make_spec, submit
from sweeper.snapshot import command_line, open_snapshot, read_snapshot, suite_spec
from sweeper.study_record import StudyRecord

_POLL_SECONDS = 0.25
FEWEST_SEEDS = 3
"""From which on intervals are narrow enough to be of use."""


def check(study: LoadedStudy, runs: Path) -> tuple[list[Finding], Design | None]:
    """What is right and wrong with a study whose file is well-formed, and what it can show.

    Args:
        study: The checked study file.
        runs: Where studies are recorded; what this one left there is measured, and not changed.

    Raises:
        SweeperError: The data step could not be run.
    """
    config = study.config
    found = [
        Finding(state="ok", what="study file", detail=f"{config.study}: {', '.join(config.arms)}")
    ]
    found += [_confirmation(study)]
    pairs = power.comparisons(config)
    if not config.confirms() or study.test is None or pairs == 0:
        return found, None
    paths = StudyPaths(runs, config.study)
    try:
        documents = count_documents(study, study.test, paths)
    except ConfigError as error:
        found.append(Finding(state="error", what="data and suites", detail=str(error)))
        return found, None
    if documents < 2:
        detail = f"{documents} document says nothing of others"
        advice = "Let the test suite name more documents."
        found.append(Finding(state="error", what="test suite", detail=detail, advice=advice))
        return found, None
    variances, basis = _variances(paths)
    shown = power.design(documents, config.confirm.seeds, pairs, variances, basis)
    return [*found, _smallest(shown), *_margin(config.margin, shown)], shown


def count_documents(study: LoadedStudy, suite: LoadedSuite, paths: StudyPaths) -> int:
    """How many documents the test suite has: as was found, as it says, or by the data step.

    Raises:
        ConfigError: Data or suites cannot work as written.
        SweeperError: The step failed.
    """
    snapshot = read_snapshot(paths)
    if snapshot and snapshot.files.get("suite test") == suite_spec(suite).content_hash:
        data = read_preparation(paths).data
        if data is not None and data.test_documents is not None:
            return data.test_documents
    named = [_named(task.documents, task.limit) for task in suite.config.tasks if task.weight]
    if all(named):
        return sum(number for number in named if number)
    return _counted(study)


def _named(documents: tuple[int, int] | None, limit: int | None) -> int | None:
    if documents is None:
        return None
    first, end = documents
    return min(end - first, limit or end)


def _counted(study: LoadedStudy) -> int:
    """By the data step, which leaves nothing behind but what the cache keeps of models."""
    with tempfile.TemporaryDirectory(prefix="sweeper-check-") as directory:
        paths = StudyPaths(Path(directory), study.config.study)
        paths.directory.mkdir()
        cache = default_root()
        with make_executor(study, paths, cache) as executor:
            _, threads = executor.next_place(paths.directory)
            snapshot = open_snapshot(study, paths, command_line(), threads)
            origin = make_origin(study, snapshot, cache)
            files = paths.preparation("data")
            spec = make_spec(study, origin, suite_spec(study.selection), "data", files)
            submit(spec, files, executor)
            while not (finished := executor.wait(_POLL_SECONDS)):
                pass
        outcome = finished[0].outcome
        if outcome is None or outcome.data is None or outcome.data.test_documents is None:
            raise explain(study, "data", outcome, files)
        return outcome.data.test_documents


def _confirmation(study: LoadedStudy) -> Finding:
    config = study.config
    what = "confirmation"
    if study.test is None:
        return Finding(
            state="warning",
            what=what,
            detail="there is no test suite: the search's best scores are optimistic, and no claim",
            advice="Write evaluation: {test: SUITE} and confirm: {seeds: 5}.",
        )
    if config.confirm.seeds == 0:
        return Finding(
            state="warning",
            what=what,
            detail="confirm.seeds is 0: the test suite is not used, and no claim is made",
            advice="Write confirm: {seeds: 5}.",
        )
    if power.comparisons(config) == 0:
        return Finding(
            state="warning",
            what=what,
            detail="there is one arm, and nothing to compare it with",
            advice="Add an arm, for example sft.",
        )
    if config.confirm.seeds < FEWEST_SEEDS:
        return Finding(
            state="warning",
            what=what,
            detail=f"confirm.seeds is {config.confirm.seeds}: too few to tell how seeds differ",
            advice=f"Write confirm: {{seeds: 5}}, or {FEWEST_SEEDS} at least.",
        )
    detail = f"winners are trained with {config.confirm.seeds} seeds, and scored on the test suite"
    return Finding(state="ok", what=what, detail=detail)


def _smallest(design: Design) -> Finding:
    sizes = " to ".join(f"{size:.3f}" for size in sorted(design.smallest))
    seeds = f"{design.seeds} seed{'s' * (design.seeds != 1)}"
    pairs = f"{design.comparisons} comparison{'s' * (design.comparisons != 1)}"
    return Finding(
        state="ok",
        what="smallest difference",
        detail=f"{sizes} is found with {design.power:.0%} power by {seeds} and"
        f" {design.documents:,} documents, in a claim of {pairs}",
    )


def _margin(margin: float | None, design: Design) -> list[Finding]:
    if margin is None:
        return []
    if margin >= max(design.smallest):
        detail = f"{margin:g}, and the design can show that arms are equivalent within it"
        return [Finding(state="ok", what="margin", detail=detail)]
    return [
        Finding(
            state="warning",
            what="margin",
            detail=f"{margin:g} is smaller than what the design can show"
            f" ({max(design.smallest):.3f}): arms will hardly be called equivalent",
            advice="Use more documents or seeds, or a wider margin.",
        )
    ]


def _variances(paths: StudyPaths) -> tuple[tuple[power.Variances, ...], str]:
    """As measured by what the study left, the winners before the trials; or as assumed."""
    snapshot = read_snapshot(paths)
    if snapshot is None:
        return power.assumed()
    record = read_study(paths, snapshot)
    return _of_finals(record) or _of_trials(record, paths) or power.assumed()


def _of_finals(record: StudyRecord) -> tuple[tuple[power.Variances, ...], str] | None:
    if record.test is None or record.test.scores is None:
        return None
    arms = {arm.arm: arm for arm in record.test.scores.arms if arm.at == "steps"}
    methods = {name: arm.method for name, arm in arms.items()}
    differences = []
    for names in claim(methods, compare(record).best_gkd):
        pair = paired(*(arms[name] for name in names))
        if pair is not None:
            differences.append(pair[0] - pair[1])
    return power.from_finals(differences)


def _of_trials(
    record: StudyRecord, paths: StudyPaths
) -> tuple[tuple[power.Variances, ...], str] | None:
    scored = []
    for arm in compare(record).arms:
        if arm.best is not None:
            rows, _ = read_json_lines(paths.trial(arm.name, arm.best.number).documents)
            scored.append({f"{row['task']}/{row['doc_id']}": float(row["score"]) for row in rows})
    return power.from_trials(scored)
