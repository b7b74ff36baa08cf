"""A trial: train a student, score it on the way where a pruner asks for it, and score it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import Any

from sweeper.distillation import checkpoints
from sweeper.distillation.cost_meter import CostMeter, Report
from sweeper.distillation.data.training_data import (
    TrainingData,
    check_teacher,
    read_training_data,
)
from sweeper.distillation.distributed import ProcessGroup, joined
from sweeper.distillation.models.adapters import check_mergeable
from sweeper.distillation.models.saving import save_student
from sweeper.distillation.start import starting_student, teacher_of_arm
from sweeper.distillation.teacher import kl_probe
from sweeper.distillation.teacher.kl_probe import KLProbe
from sweeper.distillation.teacher.shared_teacher import SharedTeacher
from sweeper.distillation.train import TrainingJob, distil
from sweeper.evaluation.tasks import load_tasks, prompts
from sweeper.execution.worker.length_checks import check_trial
from sweeper.execution.worker.out_of_memory import (
    in_smaller_batches,
    is_out_of_memory,
    release_memory,
)
from sweeper.execution.worker.progress import ProgressWriter
from sweeper.execution.worker.scoring import check_collapse, evaluate, parameters, scored, tested
from sweeper.execution.worker.written import note_answers
from sweeper.foundation.cache import is_whole
from sweeper.foundation.errors import DivergedError, blaming
from sweeper.records import INTERIM_PHASE, Cost, IntermediateScore, Rollouts, TrialSpec
from sweeper.records.collapse import CollapseWatch, may_stop
from sweeper.records.layout import JobPaths
from sweeper.records.logprob_diff import logprob_diff_limit, logprob_diff_warning

_ANSWER_SECONDS = 0.02
"""Seconds between two looks for the coordinator's answer."""


def run_trial(spec: TrialSpec, progress: ProgressWriter) -> dict[str, Any]:
    """Train the student and score it, and return those parts of the outcome.

    On several devices all of the trial's processes train, and the first one does the rest.
    """
    clock = CostMeter()
    with clock.timing("load"):
        progress.phase("load")
        data = read_training_data(spec.origin)
        with blaming("arms", spec.arm):
            teacher = teacher_of_arm(data, spec.place, spec.teacher)
            if teacher != spec.origin.teacher:
                check_teacher(spec.origin, teacher, data.tokenizer)
                check_trial(spec, teacher, data)
        probe = _kl_probe(spec, data, progress)
        student = starting_student(data, spec.place)
        if spec.keep is not None and spec.keep.merged:
            check_mergeable(student, ("student", "model"))
    with joined(spec.place) as processes:
        pause = _Pause(spec, data, progress, clock, processes)
        compared = all(processes.gather(probe is not None))
        progress.phase("train", 0, spec.settings.max_steps)
        job = TrainingJob(
            data=data,
            resources=spec.place,
            model=student,
            teacher=teacher,
            method=spec.method,
            settings=spec.settings,
            seed=spec.seed,
            lora=spec.lora,
            report=_watched(spec, progress),
            probe=partial(_divergence, probe) if probe and compared else None,
            lend_head=probe.lend if probe and compared else lambda head: None,
            pause_at=pause.points,
            pause=pause,
            checkpoints=checkpoints.of_trial(spec, data, teacher, progress, processes),
            processes=processes,
        )
        trained, meter = distil(job)
        del job  # The optimiser and the teacher, which it may hold, need not outlast the training.
    if not processes.first:
        return {}
    if pause.pruned is not None:
        return {
            "state": "pruned",
            "interim": pause.pruned,
            "cost": _sum_of_parts(meter, clock),
            "curve": progress.point,
            "rollouts": _rollouts(spec, meter),
            "model_parameters": parameters(trained),
        }
    progress.phase("evaluate")
    with _scoring(spec, clock):
        evaluation = scored(spec, trained, data, progress)
        check_collapse(evaluation, spec.origin.evaluation.collapsed_score)
        on_test = None
        if spec.test_suite is not None:
            on_test = tested(spec, spec.test_suite, trained, data, progress)
    count = parameters(trained)
    if spec.keep is not None:
        progress.phase("save")
        origin = spec.origin
        note_answers(spec, spec.keep, trained, data)
        save_student(
            trained, data.tokenizer, spec.keep, origin.student.revision, origin.evaluation.dtype
        )
    return {
        "scores": evaluation,
        "test_scores": on_test,
        "cost": _sum_of_parts(meter, clock),
        "curve": progress.point,
        "rollouts": _rollouts(spec, meter),
        "model_parameters": count,
    }


@contextmanager
def _scoring(spec: TrialSpec, clock: CostMeter) -> Iterator[None]:
    """Count the seconds of a block that scores: also as a wait for the server, if one does."""
    served = spec.origin.evaluation.engine == "vllm"
    with clock.timing("evaluation"), clock.waiting("student") if served else nullcontext():
        yield


def _watched(spec: TrialSpec, progress: ProgressWriter) -> Report:
    """Return how a trial reports its training curve: with the signs of trouble in it."""
    watch, limit = CollapseWatch(spec), _logprob_diff_limit(spec)

    def report(step: int, max_steps: int, metrics: dict[str, float]) -> None:
        for point in progress.curve[watch.points :]:  # of an attempt that this one resumes
            watch.add(point.step or 0, point.metrics)
        signs = watch.add(step, metrics)
        warning = None if progress.warnings else logprob_diff_warning(step, metrics, limit)
        if warning is not None:
            print(f"Warning: {warning}.", flush=True)
        progress.train(step, max_steps, metrics, signs, (warning,) if warning else ())
        if signs and may_stop(spec):
            message = f"Training collapsed: at step {step} {signs[0].message}."
            raise DivergedError(message, signs[0].remedies)

    return report


def _kl_probe(spec: TrialSpec, data: TrainingData, progress: ProgressWriter) -> KLProbe | None:
    """Read the study's fixed sequences; make them again if the cache was emptied meanwhile."""
    inputs = spec.origin
    if inputs.held_out is None:
        return None
    entry = Path(inputs.held_out)
    if is_whole(entry):
        with suppress(Exception):
            probe = kl_probe.read(entry)
            if is_whole(entry):
                return probe
    progress.phase("held-out sequences")
    teacher = SharedTeacher(inputs, inputs.teacher, spec.place)
    allow_code = inputs.evaluation.allow_code_execution
    leaves = load_tasks(spec.suite, allow_code=allow_code, checked=True)
    asked = (text for leaf in leaves for text, _ in prompts(leaf))
    directory = kl_probe.prepare(data, teacher, list(asked))
    progress.phase("load")
    return kl_probe.read(directory)


def _divergence(probe: KLProbe, model: Any) -> float | None:
    """Return the student's divergence on the fixed sequences; None if there is no memory for it.

    Training again in smaller micro-batches would not help: they are no part of this.
    """
    try:
        measure = partial(probe.divergence, model)
        return in_smaller_batches(measure, kl_probe.MOST, "the held-out sequences are read")[0]
    except Exception as error:
        if not is_out_of_memory(error):
            raise
    release_memory()
    print("Memory ran out; training continues without teacher_divergence here.", flush=True)
    return None


def _sum_of_parts(meter: CostMeter, clock: CostMeter) -> Cost:
    """Return the training's cost, with the seconds of the parts around it."""
    cost, around = meter.cost(), clock.cost()
    served = {
        role: cost.served.get(role, 0.0) + around.served.get(role, 0.0)
        for role in sorted({*cost.served, *around.served})
    }
    seconds = {**cost.seconds, **around.seconds}
    return cost.model_copy(update={"seconds": seconds, "served": served})


def _logprob_diff_limit(spec: TrialSpec) -> float:
    return logprob_diff_limit(spec.origin, spec.settings, spec.origin.rollout_engine)


def _rollouts(spec: TrialSpec, meter: CostMeter) -> Rollouts | None:
    """Return what the training sampled, with the limit of differences where there are any."""
    rollouts = meter.rollouts()
    if rollouts is None or rollouts.logprob_diff is None:
        return rollouts
    return rollouts.model_copy(update={"logprob_diff_limit": _logprob_diff_limit(spec)})


class _Pause:
    """Pause of a training: score the student, and wait for the coordinator's decision.

    The first of several processes does both, and passes the decision on.
    """

    def __init__(
        self,
        spec: TrialSpec,
        data: TrainingData,
        progress: ProgressWriter,
        clock: CostMeter,
        processes: ProcessGroup,
    ) -> None:
        self._spec = spec
        self._data = data
        self._progress = progress
        self._clock = clock
        self._processes = processes
        self.points = {point.step: point for point in spec.interim}
        self.pruned: IntermediateScore | None = None
        """Intermediate score after which the trial was pruned."""

    def __call__(self, step: int, model: Any) -> bool:
        should_continue = self._score(step, model) if self._processes.first else True
        return self._processes.of_first(should_continue)

    def _score(self, step: int, model: Any) -> bool:
        """Score the student, and return whether to continue."""
        point, longest = self.points[step], self._spec.settings.max_steps
        progress = self._progress
        progress.phase(INTERIM_PHASE, step, longest)
        with _scoring(self._spec, self._clock):
            spec, count = self._spec, point.documents
            evaluation = evaluate(spec, model, self._data, spec.suite, progress, documents=count)
        interim = IntermediateScore(
            index=point.index,
            score=evaluation.scores.score,
            documents=evaluation.signed,
            scored=len(evaluation.documents),
        )
        progress.interim(point, longest, interim)
        if not self._should_continue(point.index):
            self.pruned = interim
            return False
        progress.phase("train", step, longest)
        return True

    def _should_continue(self, index: int) -> bool:
        """Wait for the coordinator's decision on a point."""
        # The process ends with its coordinator, so it never waits in vain.
        path = JobPaths(Path(self._spec.place.directory)).prune_decision
        while True:
            with suppress(OSError, ValueError):
                decision = json.loads(path.read_text(encoding="utf-8"))
                if decision["index"] == index:
                    return bool(decision["goes_on"])
            time.sleep(_ANSWER_SECONDS)
