"""Whether all that a study has its models read ends within their positions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

from sweeper.config.lengths import Key, LengthLimits
from sweeper.config.models import ModelConfig
from sweeper.distillation.material import Material
from sweeper.distillation.positions import check_lengths, check_sampled, check_text, positions
from sweeper.evaluation.lengths import longest_text
from sweeper.evaluation.tasks import LeafTask
from sweeper.records import PreparationSpec, SuiteSpec, TrialSpec

Noting = Callable[[], AbstractContextManager[None]]
"""Notes bad input in a block instead of stopping at it."""


def check_training(spec: PreparationSpec, material: Material, noting: Noting) -> list[str]:
    """Check what students train on and sample, and what the teacher is asked.

    Returns:
        What to tell the user of texts that go beyond the lengths a model was trained on.
    """
    origin, notes = material.origin, list[str]()
    models = {"teacher": origin.teacher, "student": origin.student}
    lengths = material.tokens(max(limit.longest for limit in spec.lengths)).lengths
    for limit in spec.lengths:
        with noting():
            notes += check_lengths(models, limit, lengths)
    if spec.needs_teacher_outputs:
        # The teacher answers all prompts, those that are too long for training as well.
        prompt = max(prompt for prompt, _ in lengths)
        key = ("teacher_outputs", "max_new_tokens")
        with noting():
            teacher = {"teacher": origin.teacher}
            notes += check_sampled(teacher, prompt, origin.teacher_outputs.max_new_tokens, key)
    return list(dict.fromkeys(notes))


def check_suite(
    suite: SuiteSpec, leaves: Sequence[LeafTask], material: Material, key: Key
) -> list[str]:
    """The same for the documents of a suite, which ``key`` of the study file names.

    Raises:
        BadInputError: One goes beyond the positions of a model that has no more.
    """
    origin = material.origin
    models = {"teacher": origin.teacher, "student": origin.student}
    known = [count for model in models.values() if (count := positions(model)) is not None]
    if not known:
        return []
    longest = longest_text(
        leaves,
        suite.config,
        material.tokenizer,
        chat=material.chat,
        system_prompt=origin.data.system_prompt,
        over=min(known),
    )
    found = f"one of {longest}"
    return check_text(models, longest, key, found=found, unit=" tokens in a prompt and its answer")


def check_trial(spec: TrialSpec, teacher: ModelConfig, material: Material) -> None:
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
