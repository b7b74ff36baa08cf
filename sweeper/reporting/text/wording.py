"""The sentences that say what a comparison means, the same in the terminal and in the report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sweeper.analysis.comparison import UNPAIRED_NOTE, ArmSummary, Comparison, Score, selection_note
from sweeper.analysis.teacher_gap import is_better, is_worse
from sweeper.config.confirm import ConfirmConfig
from sweeper.records import Failure
from sweeper.records.study_record import ArmRecord, StudyRecord, TeacherGap
from sweeper.reporting.text import formatting
from sweeper.reporting.text.terminal_escape import visible

CLEAR = 2.0
"""Differences below this many standard errors are called unclear: about 95 % confidence, before the
optimism of choosing the best of several trials."""


def headline(comparison: Comparison) -> str:
    """Which arm has the best selection score, and whether GKD leads the best offline arm."""
    sentences = [_leader(comparison)]
    if comparison.leaders:
        sentences += [_against_offline(comparison), _price(comparison)]
    return " ".join(filter(None, sentences))


def notes(comparison: Comparison) -> list[str]:
    """What a reader must know to read the scores rightly, the most important first."""
    found = []
    if comparison.several_suites:
        found.append(
            "The scores come from different versions of the selection suite: they do not compare."
        )
    if unfinished := _unfinished(comparison):
        found.append(unfinished)
    found += _stopped(comparison)
    if any(arm.trials.pruned for arm in comparison.arms):
        found.append("Pruned trials ended early, by scores on a part of the suite; none is a best.")
    if comparison.unequal_budgets:
        budgets = ", ".join(_budget(arm) for arm in comparison.arms)
        found.append(f"The trial budgets are unequal ({budgets}): more trials, a better best.")
    if not comparison.higher_is_better:
        found.append("Lower scores are better: a negative difference is a lead.")
    if comparison.leaders:
        found.append(selection_note(comparison))
    if any(arm.difference for arm in comparison.arms):
        found.append(UNPAIRED_NOTE)
    if comparison.lead is not None:
        if not is_better(comparison.lead):
            found.append(teacher_gap_sentence(comparison.lead))
    elif _no_gap(comparison.teacher, comparison.starting_student, comparison.higher_is_better):
        found.append(
            "The teacher is no better than the starting student: there is no gap to close."
        )
    return found


def teacher_gap_sentence(lead: TeacherGap) -> str:
    """Whether the teacher is better than the student that all arms start from, in a sentence."""
    if is_better(lead):
        told = "The teacher is measurably better than the starting student"
    elif is_worse(lead):
        told = "The teacher is worse than the starting student"
    else:
        told = "The teacher is not measurably better than the starting student"
    numbers = (
        f"{lead.teacher:.3f} against {lead.student:.3f}, {lead.value:+.3f}, 95 % interval"
        f" {lead.low:+.3f} to {lead.high:+.3f}, {lead.documents:,} documents"
    )
    told += f" on the selection suite ({numbers})"
    if is_better(lead):
        return f"{told}."
    return f"{told}: there may be nothing to distil that the suite could show."


def unconfirmed(record: StudyRecord) -> str:
    """What a study without a verdict lacks, and how to get it; nothing where it has one."""
    if record.test is not None and record.test.scores is not None:
        return ""
    test = (record.config.get("evaluation") or {}).get("test")
    seeds = (record.config.get("confirm") or {}).get("seeds", ConfirmConfig().seeds)
    if test and seeds:
        return (
            "Nothing is confirmed yet: the winners are still to be trained again and scored on the"
            " test suite. The same command goes on with it."
        )
    lacking = [
        *([] if test else ["a test suite as `evaluation.test`"]),
        *([] if seeds else ["`confirm: {seeds: 5}`"]),
    ]
    return (
        "Nothing was confirmed: these are the search's own scores, and the best of them may be"
        f" lucky. Give the study {formatting.listed(lacking)} and run it again: its winners are"
        " then trained with new seeds, and judged on documents that the search never saw."
    )


def failures(comparison: Comparison) -> list[tuple[str, str]]:
    """The arms with failed trials: how many failed, and of which kinds."""
    return [
        (arm.name, formatting.failure_counts(arm.failures))
        for arm in comparison.arms
        if arm.failures
    ]


def reason(failure: Failure) -> str:
    """Why a job failed: the kind in words, the message, and what to try."""
    return f"{formatting.FAILURE_NAMES[failure.kind]}: {visible(failure.told())}"


def reasons(arm: ArmRecord) -> dict[str, list[int]]:
    """The numbers of the arm's failed trials, by the reason."""
    found: dict[str, list[int]] = {}
    for trial in arm.trials:
        if trial.outcome is not None and trial.outcome.failure is not None:
            found.setdefault(reason(trial.outcome.failure), []).append(trial.number)
    return found


def outside_code(config: Mapping[str, Any]) -> list[str]:
    """The keys of a study that let code from outside run, each with what it let run."""
    found = []
    arms = config.get("arms") or {}
    for role in ("teacher", "student"):
        model = config.get(role) or {}
        if model.get("trust_remote_code") is not True:
            continue
        models = [str(model.get("model"))]
        if role == "teacher":  # an arm's own teacher is the same with another name
            for arm in arms.values():
                own = (arm or {}).get("settings") or {}
                searched = (arm or {}).get("search") or {}
                models += [str(own["teacher.model"])] if "teacher.model" in own else []
                models += map(str, (searched.get("teacher.model") or {}).get("choices", ()))
        named = formatting.listed(dict.fromkeys(visible(name) for name in models))
        found.append(f"{role}.trust_remote_code (the code of {named})")
    if (config.get("evaluation") or {}).get("allow_code_execution") is True:
        found.append("evaluation.allow_code_execution (what students answer)")
    return found


def code_notice(config: Mapping[str, Any]) -> str:
    """The sentence that says so, or nothing."""
    if not (keys := outside_code(config)):
        return ""
    return f"Code from outside was allowed to run: {formatting.listed(keys)}."


def _leader(comparison: Comparison) -> str:
    if not comparison.leaders:
        over = sum(map(ended, comparison.arms))
        return "No trial completed: there is nothing to compare." if over else "No score yet."
    digits = formatting.comparison_digits(comparison)
    where = f"on the selection suite {comparison.suite}"
    best = comparison.arm(comparison.leaders[0])
    shown = formatting.score(best.best_score, digits)
    if len(comparison.leaders) > 1:
        names = formatting.listed(comparison.leaders)
        share = "both have" if len(comparison.leaders) == 2 else "all have"
        return f"{names} {share} the best score {where}: {shown}."
    trial = f"trial {best.best.number}" if best.best else ""
    return f"{best.name} has the best score {where}: {shown} ({trial})."


def _against_offline(comparison: Comparison) -> str:
    if comparison.best_gkd is None:
        return "No GKD arm has a score."
    if comparison.best_offline is None:
        return "No offline arm has a score to compare with."
    digits = formatting.comparison_digits(comparison)
    gkd, offline = comparison.arm(comparison.best_gkd), comparison.arm(comparison.best_offline)
    difference = gkd.difference
    assert difference is not None  # both arms have a score
    reference = f"the best offline arm ({offline.name}, "
    reference += f"{formatting.score(offline.best_score, digits)})"
    subject = "GKD" if gkd.name in ("gkd", *comparison.leaders) else f"GKD ({gkd.name})"
    if difference.lead == 0:
        return f"{subject} is level with {reference}."
    verb = "leads" if difference.lead > 0 else "is behind"
    sentence = f"{subject} {verb} {reference} by {abs(difference.value):.{digits}f}"
    if difference.standard_errors is None:
        return f"{sentence}."
    errors = abs(difference.standard_errors)
    unclear = ", which is not a clear difference" if errors < CLEAR else ""
    return f"{sentence}, {errors:.1f} standard errors of the difference{unclear}."


def _price(comparison: Comparison) -> str:
    """What the best GKD trial took against the best offline one."""
    if comparison.best_gkd is None or comparison.best_offline is None:
        return ""
    ours = _device_seconds(comparison.arm(comparison.best_gkd))
    theirs = _device_seconds(comparison.arm(comparison.best_offline))
    if not ours or not theirs:
        return ""
    pair = f"{formatting.seconds(ours)} device-seconds against {formatting.seconds(theirs)}"
    ratio = f"{ours / theirs:.2g}"
    times = "about as much" if ratio == "1" else f"{ratio} times as much"
    return f"The best GKD trial took {pair} ({times})."


def _device_seconds(arm: ArmSummary) -> float:
    return arm.best.outcome.cost.device_seconds if arm.best and arm.best.outcome else 0.0


def _unfinished(comparison: Comparison) -> str:
    left = {arm.name: arm.budget - ended(arm) for arm in comparison.arms if not arm.stopped}
    waiting = [f"{name} {trials}" for name, trials in left.items() if trials > 0]
    if not waiting:
        return ""
    total = sum(arm.budget for arm in comparison.arms)
    missing = f"{sum(trials for trials in left.values() if trials > 0)} of {total} trials"
    return f"The study is not finished: {missing} are missing ({', '.join(waiting)})."


def ended(arm: ArmSummary) -> int:
    """How many of the arm's trials have ended, however they did."""
    return arm.trials.completed + arm.trials.pruned + arm.trials.failed


def _stopped(comparison: Comparison) -> list[str]:
    sentences = {
        "patience": "because their best score had not risen beyond its standard error",
        "device_hours": "because another trial would not have fitted into their device-hours",
        "wall_time": "because another trial would not have fitted into the study's wall time",
    }
    found = []
    for reason, sentence in sentences.items():
        arms = [arm for arm in comparison.arms if arm.stopped == reason]
        if arms:
            listed = ", ".join(f"{arm.name} {ended(arm)} of {arm.budget}" for arm in arms)
            found.append(f"Arms stopped before they had all their trials ({listed}), {sentence}.")
    return found


def _budget(arm: ArmSummary) -> str:
    hours = "" if arm.device_hours is None else f" in {arm.device_hours:.3g} device-hours"
    return f"{arm.name} {arm.budget}{hours}"


def _no_gap(teacher: Score | None, student: Score | None, higher_is_better: bool) -> bool:
    if teacher is None or student is None:
        return False
    ahead = teacher.score - student.score
    return (ahead if higher_is_better else -ahead) <= 0
