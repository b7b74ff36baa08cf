"""Checks that everything a study has its models read ends within their positions."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

from sweeper.config.lengths import Key, LengthLimits
from sweeper.config.models import ModelConfig
from sweeper.distillation.data.training_data import TrainingData
from sweeper.distillation.models.context_length import (
    check_lengths,
    check_sampled,
    check_text,
    positions,
)
from sweeper.evaluation.prompt_lengths import text_lengths
from sweeper.evaluation.tasks import LeafTask
from sweeper.records import PreparationSpec, ScoredTask, StudyInputs, SuiteSpec, TrialSpec

Noting = Callable[[], AbstractContextManager[None]]
"""Notes bad input in a block instead of stopping at it."""
_WINDOW = 2048
"""Tokens that lm-eval has a model read at once that does not say how many it can."""


def check_training(spec: PreparationSpec, material: TrainingData, noting: Noting) -> list[str]:
    """Check what students train on and sample, and what the teacher is asked.

    Returns:
        Notes for the user on texts that go beyond the lengths a model was trained on.
    """
    origin, notes = material.inputs, list[str]()
    models = _that_read(origin)
    lengths = material.tokens(max(limit.longest for limit in spec.lengths)).lengths
    for limit in spec.lengths:
        with noting():
            notes += check_lengths(models, limit, lengths)
    if spec.needs_teacher_outputs and origin.teacher.has_tokenizer():
        # The teacher answers all prompts, those that are too long for training as well.
        prompt = max(prompt for prompt, _ in lengths)
        key = ("teacher_outputs", "max_new_tokens")
        with noting():
            teacher = {"teacher": origin.teacher}
            notes += check_sampled(teacher, prompt, origin.teacher_outputs.max_new_tokens, key)
    return list(dict.fromkeys(notes))


def _that_read(origin: StudyInputs) -> dict[str, ModelConfig]:
    """Return the models that read the data and the suites here: a served teacher does not."""
    teacher = {"teacher": origin.teacher} if origin.teacher.server is None else {}
    return {**teacher, "student": origin.student}


def check_suite(
    suite: SuiteSpec, leaves: Sequence[LeafTask], material: TrainingData, key: Key
) -> tuple[list[ScoredTask], list[str]]:
    """Check the documents of a suite, which ``key`` of the study file names.

    Returns:
        What its tasks have a student read; and notes for the user.

    Raises:
        BadInputError: One goes beyond the positions of a model that has no more.
    """
    origin = material.inputs
    models = _that_read(origin)
    known = [count for model in models.values() if (count := positions(model)) is not None]
    lengths = text_lengths(
        leaves,
        suite.config,
        material.tokenizer,
        chat=material.chat,
        system_prompt=origin.data.system_prompt,
        over=min(known, default=math.inf),
    )
    longest = max((task.longest for task in lengths), default=0)
    found = f"one of {longest}"
    notes = check_text(models, longest, key, found=found, unit=" tokens in a prompt and its answer")
    window = positions(origin.student) or _WINDOW
    tasks = [
        ScoredTask(
            task=task.task,
            texts=task.texts,
            tokens=min(max(task.longest, task.windowed), window),
            likelihoods=task.likelihoods,
        )
        for task in lengths
    ]
    return tasks, notes


def check_trial(spec: TrialSpec, teacher: ModelConfig, material: TrainingData) -> None:
    """Check what a trial's own teacher reads.

    Raises:
        BadInputError: It goes beyond the teacher's positions, which has no more.
    """
    settings, arm = spec.settings, ("arms", spec.arm)
    samples = spec.method == "gkd" and settings.lmbda > 0
    limit = LengthLimits(
        longest=settings.max_length,
        longest_key=arm,
        sampled=settings.max_new_tokens if samples else None,
        sampled_key=arm,
    )
    check_lengths({"teacher": teacher}, limit, material.tokens(settings.max_length).lengths)
