"""``sweeper check``, and what ``sweeper run`` begins with: everything that is known beforehand."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from sweeper.analysis import power
from sweeper.analysis.comparison import compare
from sweeper.analysis.findings import Finding, Preflight
from sweeper.analysis.timing import StudyTiming
from sweeper.analysis.verdict import paired, primary_comparisons
from sweeper.commands.check.data import data_findings
from sweeper.commands.check.data_step import recorded_data_check, run_data_step
from sweeper.commands.check.duration import with_time, workers_of
from sweeper.commands.check.measured_times import timing_of_study
from sweeper.commands.check.memory_findings import memory_findings
from sweeper.commands.check.models import pair_findings, size_finding, teacher_gap_finding
from sweeper.commands.check.power import design_findings, power_findings
from sweeper.commands.check.probe import probe
from sweeper.commands.check.settings import settings_findings
from sweeper.config.loading import LoadedStudy, LoadedSuite
from sweeper.config.models import StudentConfig
from sweeper.config.study import StudyConfig
from sweeper.execution.device_sharing import DeviceMemory, trial_memory, usable_devices
from sweeper.foundation.cache import default_root
from sweeper.foundation.errors import SweeperError
from sweeper.records import DataCheck, Failure, ModelShape, ShapeRequest
from sweeper.records.layout import StudyPaths
from sweeper.records.study_record import StudyRecord, TeacherGap
from sweeper.study.extreme_settings import wanted
from sweeper.study.manifest import changes, read_manifest
from sweeper.study.preparation import problem_of
from sweeper.study.results import read_study, selection_documents

Shaped = tuple[ShapeRequest, ModelShape]
KnownVariances = tuple[tuple[power.Variances, ...], str]


def check(
    study: LoadedStudy,
    runs: Path,
    out: Console | None = None,
    *,
    probing: bool = False,
    cache: Path | None = None,
) -> Preflight:
    """Everything that is known of a study whose file is well-formed, before it is run.

    Args:
        study: The checked study file.
        runs: Where studies are recorded; what this one left there is read, and not changed.
        out: Where it is shown that something is under way; None: nowhere.
        probing: Whether a few steps of each arm are done, to measure how long the study takes.
        cache: The content-addressed cache; by default the user's.

    Raises:
        SweeperError: The data step could not be run.
    """
    out = out or Console(quiet=True)
    started = time.time()
    paths = StudyPaths(runs, study.config.study)
    with out.status("Looking over data, tokenizers and suites"):
        snapshot = read_manifest(paths)
        record = read_study(paths, snapshot) if snapshot is not None else None
        variances = _variances(record, paths) if record is not None else None
        if snapshot is not None and changes(snapshot, study):
            # Its documents may be much the same; nothing else of it says anything.
            snapshot = record = None
        known = recorded_data_check(study, paths, snapshot) if snapshot is not None else None
        device = next(iter(_devices(study.config)[0]), "cpu")
        seen = known or run_data_step(study, device, cache or default_root())
        lead = record.lead if record is not None else None
        found = judge(study, seen, lead=lead, variances=variances)
    if found.errors:
        return found
    timed: StudyTiming | SweeperError | None = None
    if probing:
        try:
            probed = probe(study, paths, cache or default_root(), out, begun=started)
        except SweeperError as error:
            timed = error
        else:
            timed = probed.pace
            found = judge(study, seen, lead=probed.lead, variances=variances)
    elif record is not None:
        timed = timing_of_study(record, study.config.arms, workers_of(study.config))
    # Old records do not count documents that the score leaves out.
    return with_time(study, found, timed, seen.test_scored or seen.test_documents)


def judge(
    study: LoadedStudy,
    seen: DataCheck,
    *,
    lead: TeacherGap | None = None,
    variances: KnownVariances | None = None,
) -> Preflight:
    """What is said of a study.

    Args:
        study: The checked study file.
        seen: What the data step saw.
        lead: The teacher's over the starting student, once both were scored.
        variances: Of a difference, and what they are in words; by default as assumed.
    """
    config = study.config
    devices, places, of_compute = _devices(config)
    # Old records have no shapes.
    shapes = list(zip(wanted(config), seen.shapes, strict=False))
    teacher, student = _parameters(config, shapes)
    documents = seen.test_documents
    if documents is None and study.test is not None:
        documents = _named_documents(study.test)
    of_design, design = design_findings(config, documents, *(variances or power.assumed()))
    return Preflight(
        findings=(
            Finding(
                state="ok", what="study file", detail=f"{config.study}: {', '.join(config.arms)}"
            ),
            *(_wrong(study, problem) for problem in seen.problems),
            *pair_findings(seen),
            *([size_finding(teacher, student)] if teacher and student else []),
            *([teacher_gap_finding(lead)] if lead is not None else []),
            *data_findings(study, seen),
            *settings_findings(config, devices, student),
            *of_compute,
            *_memory(config, seen, shapes, places),
            *power_findings(config),
            *of_design,
        ),
        design=design,
    )


_PARTS = {
    ("data",): "training data",
    ("evaluation", "selection"): "selection suite",
    ("evaluation", "test"): "test suite",
    ("teacher",): "teacher",
    ("student",): "student",
    ("training",): "settings",
    ("arms",): "settings",
}
"""What a key of the study file is a part of."""


def _wrong(study: LoadedStudy, problem: Failure) -> Finding:
    parts = (what for key, what in _PARTS.items() if problem.key[: len(key)] == key)
    found = problem_of(study, problem)
    return Finding(
        state="error", what=next(parts, "study file"), detail=found.message, place=found.place
    )


def _devices(config: StudyConfig) -> tuple[list[str], list[DeviceMemory], list[Finding]]:
    """What trials would run on, as far as this machine can say; and what is wrong with it."""
    compute = config.compute
    if compute.executor != "local":
        return [], [], []
    try:
        return usable_devices(compute), trial_memory(compute), []
    except SweeperError as error:
        return [], [], [Finding(state="error", what="compute", detail=str(error))]


def _parameters(config: StudyConfig, shapes: Sequence[Shaped]) -> tuple[int | None, int | None]:
    """How many the teacher and the student have, an adapter left out, as far as it is known."""
    teacher = student = None
    for asked, shape in shapes:
        if isinstance(asked.model, StudentConfig):
            student = shape.parameters - (shape.trainable_parameters if shape.adapted else 0)
        elif asked.model.model == config.teacher.model:
            teacher = shape.parameters
    return teacher, student


def _memory(
    config: StudyConfig, seen: DataCheck, shapes: Sequence[Shaped], places: Sequence[DeviceMemory]
) -> list[Finding]:
    if seen.data is None or not shapes:
        return []
    known = {asked.key(): shape for asked, shape in shapes}
    return memory_findings(config, seen.data, lambda asked: known[asked.key()], places)


def _named_documents(suite: LoadedSuite) -> int | None:
    """How many documents a suite's score is made of, where all of its tasks name theirs."""
    found = 0
    for task in suite.config.tasks:
        if not task.weight:
            continue
        if task.documents is None:
            return None
        first, end = task.documents
        found += min(end - first, task.limit or end)
    return found


def _variances(record: StudyRecord, paths: StudyPaths) -> KnownVariances | None:
    """As measured by what the study left, the winners before the trials."""
    return _of_finals(record) or _of_trials(record, paths)


def _of_finals(record: StudyRecord) -> KnownVariances | None:
    if record.test is None or record.test.scores is None:
        return None
    arms = {arm.arm: arm for arm in record.test.scores.arms if arm.at == "steps"}
    methods = {name: arm.method for name, arm in arms.items()}
    differences = []
    for names in primary_comparisons(methods, compare(record).best_gkd):
        pair = paired(*(arms[name] for name in names))
        if pair is not None:
            differences.append(pair[0] - pair[1])
    return power.from_finals(differences)


def _of_trials(record: StudyRecord, paths: StudyPaths) -> KnownVariances | None:
    scored = []
    for arm in compare(record).arms:
        if arm.best is not None:
            documents = selection_documents(paths.trial(arm.name, arm.best.number))
            scored.append({f"{one.task}/{one.doc_id}": one.value for one in documents})
    return power.from_trials(scored)
