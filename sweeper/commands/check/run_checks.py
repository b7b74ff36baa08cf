"""``sweeper check``, and the checks with which ``sweeper run`` begins."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from rich.console import Console

from sweeper.analysis import power
from sweeper.analysis.comparison import compare
from sweeper.analysis.findings import Finding, Preflight
from sweeper.analysis.pair import PairSummary, summarize_pairs
from sweeper.analysis.timing import DurationEstimate, StudyTiming
from sweeper.analysis.verdict import paired, primary_comparisons
from sweeper.commands.check.data import data_findings
from sweeper.commands.check.data_step import recorded_data_check, run_data_step
from sweeper.commands.check.duration import (
    budget_findings,
    server_hours,
    slow_findings,
    time_finding,
    timeout_findings,
)
from sweeper.commands.check.duration_estimate import StudyPlan, estimate
from sweeper.commands.check.machine import (
    Machine,
    machine_findings,
    machine_of,
    on_this_machine,
    precision_findings,
    sharing_findings,
)
from sweeper.commands.check.memory_findings import StudyTrainings, memory_findings
from sweeper.commands.check.models import (
    file_findings,
    judgement_finding,
    pair_findings,
    server_finding,
    size_finding,
    teacher_gap_finding,
    tokenizer_findings,
)
from sweeper.commands.check.places import place_findings
from sweeper.commands.check.power import (
    confirmation_finding,
    declared_comparisons,
    design_findings,
)
from sweeper.commands.check.probe import probe
from sweeper.commands.check.served_models import beside_servers, length_findings, served_finding
from sweeper.commands.check.settings import settings_findings
from sweeper.commands.check.starts import start_findings
from sweeper.config.judgement import judged
from sweeper.config.loading import LoadedStudy, LoadedSuite
from sweeper.config.models import StudentConfig
from sweeper.config.scoring_engine import teacher_is_scored
from sweeper.config.study import StudyConfig
from sweeper.execution.devices import lacks_bfloat16
from sweeper.foundation.cache import default_root
from sweeper.foundation.errors import SweeperError
from sweeper.records import DataCheck, Failure, ModelShape, ShapeRequest
from sweeper.records.layout import StudyPaths
from sweeper.records.study_record import StudyRecord, TeacherGap
from sweeper.study.budgets import device_seconds, trial_budgets
from sweeper.study.extreme_settings import wanted
from sweeper.study.manifest import changes, has_begun, input_hashes, read_manifest, suite_spec
from sweeper.study.pair import STEP, read_pair
from sweeper.study.preparation import problem_of
from sweeper.study.results import read_study, selection_documents
from sweeper.study.start_settings import StartSettings, start_settings

RequestedShape = tuple[ShapeRequest, ModelShape]
KnownVariances = tuple[tuple[power.Variances, ...], str]
"""Variances of a difference, and their source in words."""


def check(
    study: LoadedStudy,
    runs: Path,
    out: Console | None = None,
    *,
    reports: Path = Path("reports"),
    probing: bool = False,
    cache: Path | None = None,
) -> Preflight:
    """Check a study whose file is well-formed, before it is run.

    What the study left in ``runs`` is read, and not changed, but for the diagnosis of the pair that
    a probe records there.

    Args:
        study: The checked study file.
        runs: Directory of all studies.
        out: Shows that something is under way.
        reports: Directory of all reports.
        probing: True to sample from both models, for whether they fit together, and to measure a
            few steps of each arm, for how long the study takes.
        cache: The content-addressed cache; by default the user's.

    Raises:
        ConfigError: What an arm starts with cannot be read or run.
        SweeperError: The data step could not be run.
    """
    out, cache = out or Console(quiet=True), cache or default_root()
    started = time.time()
    paths = StudyPaths(runs, study.config.study)
    study = on_this_machine(study, paths)
    config = study.config
    starts = start_settings(study, paths)
    with out.status("Checking data, tokenizers and suites"):
        manifest = read_manifest(paths)
        record = read_study(paths, manifest) if manifest is not None else None
        variances = _variances(record, paths) if record is not None else None
        differences = changes(manifest, study) if manifest is not None else []
        of_places = place_findings(
            study,
            (paths.directory, reports / config.study, cache),
            differences if has_begun(paths) else [],
        )
        if differences:
            # Its documents may be much the same; nothing else of it holds.
            manifest = record = None
        recorded = recorded_data_check(study, paths, manifest) if manifest is not None else None
        device = next(iter(machine_of(study).devices), "cpu")
        data_check = recorded or run_data_step(study, device, cache)
        gaps = {arm.name: arm.lead for arm in record.arms if arm.lead} if record else {}
        gaps |= {"": record.lead} if record and record.lead else {}
        preflight = judge(study, data_check, gaps=gaps, variances=variances, starts=starts)
    if preflight.errors or of_places:
        return preflight.model_copy(update={"findings": (*preflight.findings, *of_places)})
    expected = None
    if not probing:
        detail = f"unknown: sweeper check {study.path} --probe measures it"
        findings = [Finding(state="ok", what="time", detail=detail)]
    else:
        try:
            probed = probe(study, paths, cache, out, begun=started)
        except SweeperError as error:
            findings = [Finding(state="error", what="time", detail=str(error))]
        else:
            preflight = judge(
                study, data_check, gaps=probed.gaps, variances=variances, starts=starts
            )
            # Old records do not count documents that the score leaves out.
            documents = data_check.test_scored or data_check.test_documents
            expected = estimate(probed.timing, plan_of(config, documents))
            findings = [
                *(Finding(state="warning", what="pair", detail=_UNKNOWN + n) for n in probed.notes),
                *time_findings(config, probed.timing, expected),
            ]
    pairs: tuple[PairSummary, ...] = ()
    # Hashes of large models take a while.
    probed_before = paths.preparation(STEP).outcome.is_file()
    if probed_before and (pair := read_pair(paths, config, input_hashes(study))) is not None:
        pairs = summarize_pairs(pair)
    findings = [*pair_findings(pairs), *findings]
    update = {
        "findings": (*preflight.findings, *findings),
        "estimate": expected,
        "pairs": pairs,
    }
    return preflight.model_copy(update=update)


_UNKNOWN = "teacher and student could not be compared: "


def plan_of(config: StudyConfig, test_documents: int | None) -> StudyPlan:
    """Return the jobs of a study; without documents of a test suite it has no confirmation."""
    confirms = config.confirms() and test_documents is not None
    looks = len(config.pruner.points())
    return StudyPlan(
        trials=trial_budgets(config.arms, config.trials, config.sampler, config.budget.trials),
        intermediate_scores={name: looks for name, arm in config.arms.items() if arm.search},
        intermediate_documents=config.pruner.documents,
        trainings=config.confirm.seeds * config.confirm.top_k if confirms else 0,
        test_documents=test_documents or 0,
        compare_at=config.compare_at,
        compare=config.compare,
        devices=config.compute.devices_per_trial,
    )


def time_findings(
    config: StudyConfig, timing: StudyTiming, expected: DurationEstimate
) -> list[Finding]:
    """Report the study's duration, the limits that it meets, and what is slow."""
    compute, wall_time = config.compute, config.budget.wall_time
    limits = device_seconds(config.arms, config.budget)
    return [
        time_finding(expected, server_hours(config, timing.device, expected)),
        *budget_findings(expected, compute.devices_per_trial, wall_time, limits),
        *timeout_findings(expected, compute.trial_timeout, compute.stall_timeout),
        *slow_findings(timing, config),
    ]


def judge(
    study: LoadedStudy,
    data_check: DataCheck,
    *,
    gaps: Mapping[str, TeacherGap] | None = None,
    variances: KnownVariances | None = None,
    starts: StartSettings | None = None,
) -> Preflight:
    """Return all findings on a study but those on time.

    ``gaps`` are those of teachers that were scored, by the arm whose own it is; that of the study's
    has no name. Variances are assumed by default. ``starts`` has what the searches
    start with.
    """
    config = study.config
    machine = machine_of(study)
    # Old records have no shapes.
    shapes = list(zip(wanted(config), data_check.shapes, strict=False))
    teacher, student = _parameters(config, shapes)
    documents = data_check.test_documents
    if documents is None and study.test is not None:
        documents = _named_documents(study.test)
    pairs = power.comparisons([arm.method for arm in config.arms.values()], config.compare)
    has_test, seeds = study.test is not None, config.confirm.seeds
    of_design, design = design_findings(
        documents if has_test else None,
        seeds,
        pairs,
        config.margin,
        *(variances or power.assumed()),
    )
    answers = config.teacher_outputs.max_new_tokens if config.needs_teacher_outputs() else None
    rows = data_check.rows.rows if data_check.rows else None
    read, summary, room = judged(config), data_check.data, config.compute.teacher_states_gib
    positions = summary.used * summary.completion_tokens if summary else None
    has_score = teacher_is_scored(config.teacher, config.evaluation)
    scored_in = config.scoring_dtype() if has_score else None
    tokenizers: Iterable[Finding] = ()
    if data_check.tokenizer is not None:
        text = not config.teacher.has_tokenizer()
        tokenizers = tokenizer_findings(data_check.tokenizer, text=text)
    return Preflight(
        findings=(
            Finding(
                state="ok", what="study file", detail=f"{config.study}: {', '.join(config.arms)}"
            ),
            *(_problem(study, problem) for problem in data_check.problems),
            *filter(None, [server_finding(config.teacher, rows, answers, scored_in=scored_in)]),
            *([judgement_finding(read, positions, room)] if read else []),
            *tokenizers,
            *file_findings(data_check.models, data_check.generation),
            *([size_finding(teacher, student)] if teacher and student else []),
            *(teacher_gap_finding(gap, name) for name, gap in sorted((gaps or {}).items())),
            *data_findings(data_check, study.selection, study.test, config.arms, answers),
            *settings_findings(
                config,
                machine.devices,
                student,
                data_check.data.used if data_check.data else None,
                data_check.attention,
            ),
            *start_findings(config, starts or {}, suite_spec(study.selection).content_hash),
            *precision_findings(study, machine.devices),
            *sharing_findings(config, machine.sharing),
            *machine_findings(config, [*filter(lacks_bfloat16, machine.devices)], os.environ),
            *machine.problems,
            *filter(None, [served_finding(machine.servers)]),
            *length_findings(study, data_check.data),
            *_memory(config, data_check, shapes, machine, student),
            confirmation_finding(seeds if has_test else None, pairs),
            *declared_comparisons(config.compare),
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
"""Parts of a study, by the keys of the study file that belong to them."""


def _problem(study: LoadedStudy, failure: Failure) -> Finding:
    parts = (what for key, what in _PARTS.items() if failure.key[: len(key)] == key)
    problem = problem_of(study, failure)
    return Finding(
        state="error", what=next(parts, "study file"), detail=problem.message, place=problem.place
    )


def _parameters(
    config: StudyConfig, shapes: Sequence[RequestedShape]
) -> tuple[int | None, int | None]:
    """Return the parameters of teacher and student, without an adapter; None if not known."""
    teacher = student = None
    for asked, shape in shapes:
        if isinstance(asked.model, StudentConfig):
            student = shape.parameters - (shape.trainable_parameters if shape.adapted else 0)
        elif (asked.model.model, asked.model.keep_layers) == (config.teacher.model, None):
            teacher = shape.parameters
    return teacher, student


def _memory(
    config: StudyConfig,
    data_check: DataCheck,
    shapes: Sequence[RequestedShape],
    machine: Machine,
    student: int | None,
) -> list[Finding]:
    if data_check.data is None or not shapes:
        return []
    known = {asked.key(): shape for asked, shape in shapes}
    trainings = StudyTrainings(config, data_check.data, lambda asked: known[asked.key()])
    rooms = beside_servers(machine.places, machine.servers, machine.devices, student)
    return memory_findings(trainings, rooms)


def _named_documents(suite: LoadedSuite) -> int | None:
    """Return the documents of a suite's score; None if a task does not name its own."""
    count = 0
    for task in suite.config.tasks:
        if not task.weight:
            continue
        if task.documents is None:
            return None
        first, end = task.documents
        count += min(end - first, task.limit or end)
    return count


def _variances(record: StudyRecord, paths: StudyPaths) -> KnownVariances | None:
    """Return the variances of the study's confirmation runs, or else of its trials."""
    comparison = compare(record)
    differences = []
    if record.test and (scores := record.test.scores):
        methods = {arm.arm: arm.method for arm in scores.arms if arm.at == "steps"}
        pairs = primary_comparisons(methods, comparison.best_gkd, scores.compare)
        found = (paired(scores, "steps", *names) for names in pairs)
        differences = [pair[0] - pair[1] for pair in found if pair is not None]
    if (confirmed := power.from_finals(differences)) is not None:
        return confirmed
    scored = []
    for arm in comparison.arms:
        if arm.best is not None:
            documents = selection_documents(paths.trial(arm.name, arm.best.number))
            scored.append({f"{score.task}/{score.doc_id}": score.value for score in documents})
    return power.from_trials(scored)
