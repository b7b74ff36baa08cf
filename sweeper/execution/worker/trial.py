"""A trial: a student is trained, scored at points where a pruner asks for it, and scored."""

from __future__ import annotations

import json
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from sweeper.distillation import checkpoints
from sweeper.distillation.cost_meter import CostMeter
from sweeper.distillation.data.training_data import (
    TrainingData,
    check_teacher,
    own_teacher,
    read_training_data,
)
from sweeper.distillation.distributed import Ranks, joined
from sweeper.distillation.models.loading import load_model
from sweeper.distillation.models.saving import save_student
from sweeper.distillation.teacher import kl_probe
from sweeper.distillation.teacher.kl_probe import KLProbe
from sweeper.distillation.train import distil, starting_student
from sweeper.evaluation.tasks import load_tasks, prompts
from sweeper.execution.worker.length_checks import check_trial
from sweeper.execution.worker.progress import ProgressWriter
from sweeper.execution.worker.scoring import check_collapse, evaluate, parameters, scored, tested
from sweeper.foundation.cache import is_whole
from sweeper.foundation.errors import blaming
from sweeper.records import INTERIM_PHASE, Cost, IntermediateScore, TrialSpec
from sweeper.records.layout import JobPaths
from sweeper.records.seeds import teacher_seed

_ANSWER_SECONDS = 0.02
"""Seconds between two looks for the coordinator's decision."""


def run_trial(spec: TrialSpec, reporter: ProgressWriter) -> dict[str, Any]:
    """Train and score the student; return what the outcome records of it.

    On several devices all of the trial's processes train, and the first one does the rest.
    """
    clock = CostMeter()
    with clock.timing("load"):
        reporter.phase("load")
        material = read_training_data(spec.origin)
        with blaming("arms", spec.arm):
            teacher = own_teacher(spec.origin, spec.teacher)
            if teacher != spec.origin.teacher:
                check_teacher(spec.origin, teacher, material.tokenizer)
                check_trial(spec, teacher, material)
        fixed = _read_probe(spec, material, reporter)
        student = starting_student(spec.origin, material, spec.place)
    with joined(spec.place) as ranks:
        pause = _Pause(spec, material, reporter, clock, ranks)
        compared = all(ranks.gather(fixed is not None))
        reporter.phase("train", 0, spec.settings.max_steps)
        trained, meter = distil(
            spec.origin,
            material,
            spec.place,
            model=student,
            teacher=teacher,
            method=spec.method,
            settings=spec.settings,
            seed=spec.seed,
            lora=spec.lora,
            report=reporter.train,
            probe=fixed.divergence if fixed and compared else None,
            pause_at=pause.points,
            pause=pause,
            checkpoints=checkpoints.of_trial(spec, material, teacher, reporter, ranks),
            ranks=ranks,
        )
    if not ranks.first:
        return {}
    if pause.pruned is not None:
        return {
            "state": "pruned",
            "interim": pause.pruned,
            "cost": _sum_of_parts(meter, clock),
            "curve": reporter.point,
            "rollouts": meter.rollouts(),
            "model_parameters": parameters(trained),
        }
    reporter.phase("evaluate")
    with clock.timing("evaluation"):
        evaluation = scored(spec, trained, material)
        check_collapse(evaluation, spec.origin.evaluation.collapsed_score)
        on_test = tested(spec, spec.test_suite, trained, material) if spec.test_suite else None
    count = parameters(trained)
    if spec.keep is not None:
        reporter.phase("save")
        save_student(trained, material.tokenizer, spec.keep, spec.origin.student.revision)
    return {
        "scores": evaluation,
        "test_scores": on_test,
        "cost": _sum_of_parts(meter, clock),
        "curve": reporter.point,
        "rollouts": meter.rollouts(),
        "model_parameters": count,
    }


def _read_probe(
    spec: TrialSpec, material: TrainingData, reporter: ProgressWriter
) -> KLProbe | None:
    """Read the study's fixed sequences; make them again if the cache was emptied."""
    origin = spec.origin
    if origin.held_out is None:
        return None
    entry = Path(origin.held_out)
    if is_whole(entry):
        with suppress(Exception):
            fixed = kl_probe.read(entry)
            if is_whole(entry):
                return fixed
    reporter.phase("held-out sequences")
    seed = teacher_seed(origin.seed)
    leaves = load_tasks(spec.suite, allow_code=origin.evaluation.allow_code_execution)
    asked = (text for leaf in leaves for text, _ in prompts(leaf))
    made = kl_probe.prepare(
        material,
        list(asked),
        spec.place,
        lambda: load_model(origin.teacher, spec.place.device, seed=seed),
    )
    reporter.phase("load")
    return kl_probe.read(made)


def _sum_of_parts(meter: CostMeter, clock: CostMeter) -> Cost:
    """Return the training's cost, with the seconds of the parts around it."""
    cost = meter.cost()
    return cost.model_copy(update={"seconds": {**cost.seconds, **clock.cost().seconds}})


class _Pause:
    """Scores a student in the middle of its training, and waits for the decision to prune it.

    Of several processes the first does so, and passes the decision on to the others.
    """

    def __init__(
        self,
        spec: TrialSpec,
        material: TrainingData,
        reporter: ProgressWriter,
        clock: CostMeter,
        ranks: Ranks,
    ) -> None:
        self._spec = spec
        self._material = material
        self._reporter = reporter
        self._clock = clock
        self._ranks = ranks
        self.points = {point.step: point for point in spec.interim}
        self.pruned: IntermediateScore | None = None
        """Score after which the trial was pruned."""

    def __call__(self, step: int, model: Any) -> bool:
        should_continue = self._score(step, model) if self._ranks.first else True
        return self._ranks.of_first(should_continue)

    def _score(self, step: int, model: Any) -> bool:
        point, longest = self.points[step], self._spec.settings.max_steps
        reporter = self._reporter
        reporter.phase(INTERIM_PHASE, step, longest)
        with self._clock.timing("evaluation"):
            spec = self._spec
            found = evaluate(spec, model, self._material, spec.suite, documents=point.documents)
        interim = IntermediateScore(
            index=point.index,
            score=found.scores.score,
            documents=found.signed,
            scored=len(found.documents),
        )
        reporter.interim(point, longest, interim)
        if not self._should_continue(point.index):
            self.pruned = interim
            return False
        reporter.phase("train", step, longest)
        return True

    def _should_continue(self, index: int) -> bool:
        # The process ends with its coordinator, so an answer comes, or there is nobody to wait for.
        path = JobPaths(Path(self._spec.place.directory)).prune_decision
        while True:
            with suppress(OSError, ValueError):
                decision = json.loads(path.read_text(encoding="utf-8"))
                if decision["index"] == index:
                    return bool(decision["goes_on"])
            time.sleep(_ANSWER_SECONDS)
