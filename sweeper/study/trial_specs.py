"""The spec of a trial: everything that decides its result, and where it runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from sweeper.config.arms import ArmConfig
from sweeper.config.compute import ComputeConfig
from sweeper.config.settings import TrainingConfig, effective, in_steps, model_settings, resolve
from sweeper.records import (
    ConfirmationRun,
    IntermediatePoint,
    Resources,
    StudyInputs,
    SuiteSpec,
    TrialSpec,
)
from sweeper.records.layout import JobPaths
from sweeper.records.seeds import confirmation_seed, trial_seed
from sweeper.search.arm_search import Asked
from sweeper.study.retries import archive_attempt, out_of_memory_attempts, smaller


@dataclass(frozen=True)
class TrialSpecs:
    """What the specs of a study's trials have in common.

    Attributes:
        arms: The arms, by name.
        inputs: What all jobs of the study share.
        suite: The selection suite.
        training: The study's training settings, below those of an arm.
        compute: Memory limit and sharding of a trial.
        documents: Documents of each task that an intermediate score is made of.
        test_suite: The test suite, which confirmation runs are scored on as well.
    """

    arms: Mapping[str, ArmConfig]
    inputs: StudyInputs
    suite: SuiteSpec
    training: TrainingConfig
    compute: ComputeConfig
    documents: int = 1
    test_suite: SuiteSpec | None = None

    def next(
        self,
        name: str,
        asked: Asked,
        place: Resources,
        files: JobPaths,
        *,
        interim: Iterable[tuple[int, float]] = (),
        run: ConfirmationRun | None = None,
    ) -> TrialSpec:
        """Archive what an earlier attempt of a trial left, and build the spec of the next.

        Args:
            name: The arm's name.
            asked: The trial's number and sampled parameters.
            place: Where the trial runs.
            files: The files of the trial.
            interim: Points of its intermediate scores, and their shares of the optimiser steps.
            run: The confirmation run that the trial is, if it is one.
        """
        attempt = archive_attempt(files)
        arm, study_seed = self.arms[name], self.inputs.seed
        settings = effective(arm.method, resolve(self.training, arm.settings, asked.params))
        settings = in_steps(settings, self.inputs.training_rows, place.processes)
        seed = trial_seed(study_seed, name, asked.number)
        if run is not None:
            settings = settings.model_copy(
                update={"max_steps": run.max_steps, "num_train_epochs": None}
            )
            # The same for all arms, so that they share what chance there is.
            seed = confirmation_seed(study_seed, run.seed)
        if too_large := out_of_memory_attempts(files):
            settings = smaller(settings)
        return TrialSpec(
            origin=self.inputs,
            arm=name,
            method=arm.method,
            number=asked.number,
            attempt=attempt,
            seed=seed,
            params=asked.params,
            enqueued=asked.enqueued,
            settings=settings,
            lora=model_settings("lora", arm.settings, asked.params),
            teacher=model_settings("teacher", arm.settings, asked.params),
            suite=self.suite,
            interim=_steps(interim, settings.max_steps, self.documents),
            earlier_seconds=sum(outcome.cost.device_seconds for outcome in too_large),
            final=run,
            test_suite=self.test_suite,
            place=place.model_copy(
                update={
                    "memory_gib": self.compute.memory_limit,
                    "shard_teacher": self.compute.shard_teacher,
                    "shard_student": self.compute.shard_student,
                }
            ),
        )


def _steps(
    points: Iterable[tuple[int, float]], max_steps: int, documents: int
) -> tuple[IntermediatePoint, ...]:
    """Return the points as whole steps; of two at the same step the first, and none at the end."""
    steps: dict[int, IntermediatePoint] = {}
    for index, share in points:
        step = max(1, round(share * max_steps))
        if step < max_steps and step not in steps:
            steps[step] = IntermediatePoint(index=index, step=step, documents=documents)
    return tuple(steps.values())
