"""The spec of a trial: everything that decides its result, and where it runs."""

from __future__ import annotations

from collections.abc import Iterable

from sweeper.config.arms import ArmConfig
from sweeper.config.compute import ComputeConfig
from sweeper.config.settings import TrainingConfig, effective, model_settings, resolve
from sweeper.records import (
    ConfirmationRun,
    IntermediatePoint,
    Resources,
    StudyInputs,
    SuiteSpec,
    TrialSpec,
    derive_seed,
)
from sweeper.records.layout import JobPaths
from sweeper.search.arm_search import Asked
from sweeper.study.retries import (
    archive_attempt,
    out_of_memory_seconds,
    ran_out_of_memory,
    smaller,
)


def next_spec(
    name: str,
    arm: ArmConfig,
    asked: Asked,
    *,
    inputs: StudyInputs,
    suite: SuiteSpec,
    training: TrainingConfig,
    compute: ComputeConfig,
    place: Resources,
    files: JobPaths,
    interim: Iterable[tuple[int, float]] = (),
    documents: int = 1,
    final: ConfirmationRun | None = None,
    test_suite: SuiteSpec | None = None,
) -> TrialSpec:
    """Archive what an earlier attempt of a trial left, and build the spec of the next.

    Args:
        name: The arm's name.
        arm: The arm.
        asked: The trial's number and sampled parameters.
        inputs: What all jobs of the study share.
        suite: The selection suite.
        training: The study's training settings, below those of the arm.
        compute: Memory limit and sharding of a trial.
        place: Where the trial runs.
        files: The files of the trial.
        interim: Intermediate scores: their points, and their shares of the optimiser steps.
        documents: Documents of each task that an intermediate score is made of.
        final: The confirmation run that the trial is, if it is one.
        test_suite: The test suite, which a confirmation run is scored on as well.
    """
    attempt = archive_attempt(files)
    settings = effective(arm.method, resolve(training, arm.settings, asked.params))
    seed = derive_seed(inputs.seed, name, asked.number, "trial")
    if final is not None:
        settings = settings.model_copy(update={"max_steps": final.max_steps})
        # The same for all arms, so that they share what chance there is.
        seed = derive_seed(inputs.seed, "confirm", final.seed, "trial")
    if ran_out_of_memory(files):
        settings = smaller(settings)
    return TrialSpec(
        origin=inputs,
        arm=name,
        method=arm.method,
        number=asked.number,
        attempt=attempt,
        seed=seed,
        params=asked.params,
        settings=settings,
        lora=model_settings("lora", arm.settings, asked.params),
        teacher=model_settings("teacher", arm.settings, asked.params),
        suite=suite,
        interim=_steps(interim, settings.max_steps, documents),
        earlier_seconds=out_of_memory_seconds(files),
        final=final,
        test_suite=test_suite,
        place=place.model_copy(
            update={
                "memory_gib": compute.memory_limit,
                "shard_teacher": compute.shard_teacher,
                "shard_student": compute.shard_student,
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
