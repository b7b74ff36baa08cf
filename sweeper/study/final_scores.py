"""The results of confirmation runs: the plan, and the scores of each document."""

from __future__ import annotations

import hashlib
import json
import math
from collections import defaultdict
from collections.abc import Sequence
from operator import itemgetter
from pathlib import Path

from pydantic_core import to_jsonable_python

from sweeper.config.confirm import CostMeasure
from sweeper.foundation.errors import ConfigError, Problem, SweeperError
from sweeper.foundation.files import read_json_lines
from sweeper.records import Outcome, Scores, TrialSpec
from sweeper.records.layout import JobPaths, StudyPaths
from sweeper.records.outcome_files import read_completed, read_state
from sweeper.records.study_record import (
    ArmRecord,
    Confirmation,
    ConfirmationRunRecord,
    ConfirmationScores,
    ConfirmedWinner,
    CurvePoint,
    MatchedConditions,
    Plan,
    ScoredDocument,
)
from sweeper.tracking.mapping import Role

MOST_POINTS = 50
"""Points of a training curve, next to the few with the teacher's divergence."""

_DIGEST = 12
"""Characters of a hash that readers compare."""
_LATER_KEYS = {
    "chat_template_kwargs",
    "lr_scheduler_kwargs",
    "modules_to_save",
    "num_train_epochs",
    "server",
    "use_dora",
    "use_rslora",
}
"""Keys of models and warm starts that version 0.1 did not have."""

TEST_STEPS: dict[Role, str] = {"teacher": "test_teacher", "starting_student": "test_student"}
"""Steps that score a model which no arm trained."""


def read_plan(paths: StudyPaths) -> Plan | None:
    """Read the plan of what is scored on the test suite, if the search has ended.

    Raises:
        ConfigError: The file was damaged.
    """
    try:
        return Plan.model_validate_json(paths.plan.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError:
        message = (
            "expected the plan of what is scored on the test suite, found something else or only a"
            " part of it. Restore it, or remove it to score winners anew."
        )
        raise ConfigError([Problem(source=str(paths.plan), message=message)]) from None


def read_test_baselines(paths: StudyPaths) -> dict[Role, Outcome]:
    """Read the test scores of teacher and starting student, as far as they were scored."""
    steps = {role: read_completed(paths.preparation(step)) for role, step in TEST_STEPS.items()}
    return {role: outcome for role, outcome in steps.items() if outcome is not None}


def read_confirmation_runs(
    paths: StudyPaths, arm: str, plan: Plan
) -> tuple[ConfirmationRunRecord, ...]:
    """Read an arm's confirmation runs that the verdict is about, with the state of each."""
    runs = []
    for number in plan.current.get(arm, ()):
        files = paths.confirmation_run(arm, number)
        state, outcome = read_state(files)
        runs.append(
            ConfirmationRunRecord(
                number=number,
                final=plan.finals[arm][number],
                state=state,
                outcome=outcome,
                curve=read_curve(files),
            )
        )
    return tuple(runs)


def read_confirmation(
    paths: StudyPaths, plan: Plan, arms: Sequence[ArmRecord], *, higher_is_better: bool
) -> Confirmation:
    """Read what was measured on the test suite so far.

    ``higher_is_better`` is about the selection suite, which chooses among an arm's winners.

    Raises:
        SweeperError: Two models were not scored on the same documents.
    """
    ends = read_test_baselines(paths)
    on_test = [end.scores for end in ends.values() if end.scores]
    rows: dict[JobPaths, list[ScoredDocument]] = {}
    tested, missing = [], []
    for arm in arms:
        groups: dict[tuple[int, CostMeasure], list[ConfirmationRunRecord]] = defaultdict(list)
        for run in arm.finals:
            groups[run.final.trial, run.final.at].append(run)
        for (trial, at), runs in groups.items():
            done = [run for run in runs if run.state == "completed" and run.outcome]
            if len(done) < len(runs):
                missing.append(
                    f"{arm.name} #{trial}: {len(runs) - len(done)} of {len(runs)}"
                    f" confirmation runs (at equal {at.replace('_', ' ')}) have no score."
                )
            if not done:
                continue
            files_of_runs = [paths.confirmation_run(arm.name, run.number) for run in done]
            rows |= {files: read_documents(files.test_documents) for files in files_of_runs}
            on_test += [o.test_scores for run in done if (o := run.outcome) and o.test_scores]
            values = tuple(tuple(row.value for row in rows[files]) for files in files_of_runs)
            conditions = [c for files in files_of_runs for c in _read_conditions(files)]
            tested.append(_tested(arm, trial, at, done, values, conditions))
    baselines = {}
    for role in ends:
        files = paths.preparation(TEST_STEPS[role])
        rows[files] = read_documents(files.documents)
        baselines[role] = tuple(document.value for document in rows[files])
    confirmation = Confirmation(
        plan=plan, teacher=ends.get("teacher"), starting_student=ends.get("starting_student")
    )
    if not tested:
        return confirmation
    first = next(iter(rows.values()))
    for files, documents in rows.items():
        if [document.key for document in documents] != [document.key for document in first]:
            raise SweeperError(
                f"{files.directory}: expected scores of the same documents of the test suite as in"
                f" {next(iter(rows)).directory}, found others: they cannot be compared in pairs."
            )
    if len(types := {scores.dtype for scores in on_test}) > 1:
        raise SweeperError(
            "expected scores on the test suite in one precision, found"
            f" {', '.join(sorted(dtype or 'none declared' for dtype in types))}: they do not"
            " compare. Remove the confirmation runs of the earlier one to have them scored again."
        )
    scores = ConfirmationScores(
        suite=on_test[0].suite,
        higher_is_better=on_test[0].higher_is_better,
        tasks=tuple(document.task for document in first),
        shares=tuple(abs(document.share) for document in first),
        clusters=tuple(document.cluster for document in first),
        documents_hash=_identity(first, on_test[0]),
        arms=_winners_of(tested, higher_is_better),
        teacher=baselines.get("teacher"),
        starting_student=baselines.get("starting_student"),
        looks=plan.looks,
        compare=plan.compare,
        revised=plan.revised,
        missing=tuple(missing),
    )
    return confirmation.model_copy(update={"scores": scores})


def read_curve(files: JobPaths) -> tuple[CurvePoint, ...]:
    """Read the training curve; keep all points with the teacher's divergence, and few others."""
    rows, _ = read_json_lines(files.progress)
    points: dict[int, CurvePoint] = {}
    for row in rows:
        metrics = row.get("metrics") or {}
        values = {name: metrics[name] for name in CurvePoint.model_fields if name in metrics}
        # A training that resumed from a checkpoint repeats steps.
        if values and all(math.isfinite(value) for value in values.values()):
            points[row["step"]] = CurvePoint(step=row["step"], **values)
    ordered = [points[step] for step in sorted(points)]
    stride = max(-(-len(ordered) // MOST_POINTS), 1)
    return tuple(
        point
        for index, point in enumerate(reversed(ordered))
        if index % stride == 0 or point.teacher_divergence is not None
    )[::-1]


def read_documents(path: Path) -> list[ScoredDocument]:
    """Read a model's score on each document of a suite, in the suite's order."""
    rows, _ = read_json_lines(path)
    identity = itemgetter("task", "doc_id", "doc_hash", "cluster", "share")
    return [
        ScoredDocument._make((*identity(row), math.copysign(1.0, row["share"]) * row["score"]))
        for row in rows
        if row["share"]
    ]


def _identity(documents: Sequence[ScoredDocument], scores: Scores) -> str:
    """Return the hash of the documents and their shares of the score."""
    measured = [[task.task, task.metric] for task in scores.tasks if task.weight]
    rows = [[*document.key, document.cluster, document.share] for document in documents]
    return _digest([measured, rows])


def _read_conditions(files: JobPaths) -> list[MatchedConditions]:
    """Read the conditions of a training; none if its spec was removed."""
    try:
        spec = TrialSpec.model_validate_json(files.spec.read_bytes())
    except (OSError, ValueError):
        return []
    inputs, settings = spec.origin, spec.settings
    window = settings.per_device_train_batch_size * settings.gradient_accumulation_steps
    start = {"student": inputs.student, "warm_start": inputs.warm_start, "adapter": spec.lora}
    taught = inputs.teacher.model_dump(mode="json")
    if inputs.teacher.server is not None:
        # How it is asked changes no answer, and may change while a study runs.
        taught["server"] = inputs.teacher.server.identity(inputs.teacher.model)
    teacher = {"teacher": taught, "own": spec.teacher}
    return [
        MatchedConditions(
            start=_digest(_as_before(start)),
            prompts=(inputs.data_fingerprint or "")[:_DIGEST],
            teacher=_digest(_as_before(teacher)),
            sequences=window * spec.place.processes,
            scored_in=inputs.evaluation.dtype,
        )
    ]


def _as_before(value: object) -> object:
    """Return the value without keys that later versions added, where they are at their defaults.

    So what earlier studies recorded has the digest that it had.
    """
    plain = to_jsonable_python(value)
    if isinstance(plain, dict):
        return {
            key: _as_before(item) for key, item in plain.items() if item or key not in _LATER_KEYS
        }
    return plain


def _digest(value: object) -> str:
    text = json.dumps(to_jsonable_python(value), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:_DIGEST]


def _tested(
    arm: ArmRecord,
    trial: int,
    at: CostMeasure,
    runs: Sequence[ConfirmationRunRecord],
    scores: tuple[tuple[float, ...], ...],
    conditions: Sequence[MatchedConditions],
) -> ConfirmedWinner:
    outcomes = [run.outcome for run in runs if run.outcome]
    searched = next(record.outcome for record in arm.trials if record.number == trial)
    assert searched is not None and searched.scores is not None
    return ConfirmedWinner(
        arm=arm.name,
        method=arm.method,
        trial=trial,
        at=at,
        max_steps=runs[0].final.max_steps,
        seeds=tuple(run.final.seed for run in runs),
        scores=scores,
        selection=tuple(outcome.scores.score for outcome in outcomes if outcome.scores),
        searched=searched.scores.score,
        device_seconds=sum(o.cost.device_seconds for o in outcomes) / len(outcomes),
        training_seconds=sum(o.cost.training_seconds() for o in outcomes) / len(outcomes),
        trained_tokens=sum(o.cost.trained_tokens for o in outcomes) / len(outcomes),
        sharing=max(outcome.sharing for outcome in (searched, *outcomes)),
        footings=tuple(dict.fromkeys(conditions)),
    )


def _winners_of(tested: list[ConfirmedWinner], higher: bool) -> tuple[ConfirmedWinner, ...]:
    """Keep of each arm's winners the best on the selection suite with new seeds."""
    sign = 1 if higher else -1
    best: dict[str, ConfirmedWinner] = {}
    for winner in tested:
        if winner.at == "steps":
            best[winner.arm] = max(
                best.get(winner.arm, winner),
                winner,
                key=lambda each: sign * sum(each.selection) / len(each.selection),
            )
    return tuple(w for w in tested if w.arm in best and best[w.arm].trial == w.trial)
