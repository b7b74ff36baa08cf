"""The confirmation: which winners are trained again, declared before the test suite is read."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial

from sweeper.analysis.comparison import compare, scored_trials
from sweeper.analysis.fairness import TOLERANCE
from sweeper.analysis.verdict import matched_arms, primary_comparisons
from sweeper.config.confirm import ConfirmConfig, CostMeasure
from sweeper.foundation.files import write_text_atomically
from sweeper.records import ConfirmationRun
from sweeper.records.layout import StudyPaths
from sweeper.records.study_record import ArmRecord, Comparisons, Plan, StudyRecord, TrialRecord
from sweeper.study.arms import ArmState, FixedTrials
from sweeper.study.final_scores import read_plan


def open_plan(
    confirm: ConfirmConfig,
    compare_at: Sequence[CostMeasure],
    record: StudyRecord,
    suite_hash: str,
    paths: StudyPaths,
    compared: Comparisons | None = None,
) -> Plan:
    """Return the plan for the study as it is; runs of an earlier plan keep their numbers.

    ``compared`` are the primary comparisons that the study file declares. Others than those of an
    earlier plan are another look at the test suite; the direction of a pair is not.
    """
    wanted = _confirmation_runs(confirm, compare_at, record, compared)
    earlier = read_plan(paths)
    runs = dict(earlier.finals) if earlier else {}
    current = {}
    for arm, chosen in wanted.items():
        declared = list(runs.get(arm, ()))
        declared += [run for run in chosen if run not in declared]
        runs[arm] = tuple(declared)
        current[arm] = tuple(declared.index(run) for run in chosen)
    if earlier is not None and (earlier.current, earlier.compare) == (current, compared):
        return earlier
    revised = earlier is not None and _undirected(earlier.compare) != _undirected(compared)
    changed = earlier is not None and (revised or earlier.current != current)
    plan = Plan(
        suite_hash=suite_hash,
        declared=time.time(),
        finals=runs,
        current=current,
        looks=(earlier.looks if earlier else 1) + changed,
        compare=compared,
        revised=revised or (earlier is not None and earlier.revised),
    )
    write_text_atomically(paths.plan, plan.model_dump_json(indent=1) + "\n")
    return plan


def confirmation_arms(plan: Plan, record: StudyRecord, paths: StudyPaths) -> list[ArmState]:
    """Return the arms with the confirmation runs of the plan in place of their searches."""
    arms = []
    for arm in record.arms:
        if not (current := plan.current.get(arm.name, ())):
            continue
        runs = plan.finals[arm.name]
        params = {trial.number: trial.params for trial in arm.trials}
        asked = FixedTrials(runs, current, params, partial(paths.confirmation_run, arm.name))
        arms.append(ArmState(arm.name, arm.method, len(current), asked, runs=runs))
    return arms


def _confirmation_runs(
    confirm: ConfirmConfig,
    compare_at: Sequence[CostMeasure],
    record: StudyRecord,
    declared: Comparisons | None,
) -> dict[str, list[ConfirmationRun]]:
    winners = {
        arm.name: _winners(arm, confirm.top_k, record.higher_is_better) for arm in record.arms
    }
    runs: dict[str, list[ConfirmationRun]] = {name: [] for name, best in winners.items() if best}
    methods = {arm.name: arm.method for arm in record.arms if arm.name in runs}
    pairs = primary_comparisons(methods, compare(record).best_gkd, declared)
    compared = matched_arms(methods, pairs)
    timed = {name for name in compared if not any(map(_shared_a_gpu, winners[name]))}
    for at in compare_at:
        matched = timed if at == "device_seconds" else compared
        # As many as the most expensive arm's best takes.
        most = max((_cost(winners[name][0], at) for name in matched), default=0.0)
        for name in runs:
            if at != "steps" and name not in matched:
                continue
            for trial in winners[name]:
                steps = int(trial.settings["max_steps"])
                longer = round(steps * most / cost) if (cost := _cost(trial, at)) else steps
                if at != "steps" and longer <= steps * (1 + TOLERANCE):
                    continue
                runs[name] += [
                    ConfirmationRun(
                        arm=name,
                        trial=trial.number,
                        seed=seed,
                        at=at,
                        max_steps=steps if at == "steps" else longer,
                    )
                    for seed in range(confirm.seeds)
                ]
    return runs


def _undirected(pairs: Comparisons | None) -> set[frozenset[str]] | None:
    return None if pairs is None else set(map(frozenset, pairs))


def _winners(arm: ArmRecord, top_k: int, higher_is_better: bool) -> list[TrialRecord]:
    """Return the best completed trials; of equal ones the first."""
    sign = -1 if higher_is_better else 1
    ranked = sorted(scored_trials(arm), key=lambda pair: sign * pair[1].score)
    return [trial for trial, _ in ranked[:top_k]]


def _shared_a_gpu(trial: TrialRecord) -> bool:
    """Return True if the seconds of a trial depend on what ran next to it."""
    return trial.outcome is not None and trial.outcome.sharing > 1


def _cost(trial: TrialRecord, at: CostMeasure) -> float:
    if trial.outcome is None or at == "steps":
        return 0.0
    cost = trial.outcome.cost
    if at == "tokens":
        return float(cost.trained_tokens)
    return cost.training_seconds()
