"""Every seed of a study: one function a role, all derived from the seed of the study file.

A trial's seed and those of what a study does once follow from the study's seed. What is random
inside a training follows from the trial's seed. Roles that draw from different seeds cannot disturb
each other. The labels are part of every recorded result: a changed one is a changed study.
"""

from __future__ import annotations

import hashlib


def derive_seed(seed: int, *labels: str | int) -> int:
    """Return a seed in [0, 2**31) for one role: a hash of ``seed`` and the role's labels."""
    text = "/".join(str(part) for part in (seed, *labels))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") >> 1


# Of a study.


def trial_seed(study_seed: int, arm: str, number: int) -> int:
    """Return the seed of everything random in a trial of the search."""
    return derive_seed(study_seed, arm, number, "trial")


def confirmation_seed(study_seed: int, index: int) -> int:
    """Return a confirmation run's seed; equal in all arms, so that they share what chance there is.

    Args:
        study_seed: The seed of the study file.
        index: The run's position among the seeds of ``confirm.seeds``, from 0.
    """
    return derive_seed(study_seed, "confirm", index, "trial")


def sampler_seed(study_seed: int, arm: str, number: int, parameter: str) -> int:
    """Return the seed that Optuna samples a trial's ``parameter`` with; ``""``: all jointly."""
    return derive_seed(study_seed, arm, number, "sampler", parameter)


def teacher_seed(study_seed: int) -> int:
    """Return the seed of the weights of a teacher with ``random_init``."""
    return derive_seed(study_seed, "teacher")


def teacher_outputs_seed(study_seed: int) -> int:
    """Return the seed that the teacher's stored outputs are sampled with."""
    return derive_seed(study_seed, "teacher_outputs")


def served_answer_seed(study_seed: int, prompt: str, repetition: int) -> int:
    """Return the seed that a served teacher's answer to a prompt is sampled with.

    It follows from the prompt, so that a study with more rows asks for the others only.

    Args:
        study_seed: The seed of the study file.
        prompt: Hash of the prompt.
        repetition: Number of times that the prompt stands earlier in the data.
    """
    return derive_seed(study_seed, "teacher_outputs", prompt, repetition)


def scored_answer_seed(seed: int, request: str, repetition: int) -> int:
    """Return the seed of a served model's answer to a prompt of a task that samples.

    Args:
        seed: The seed that all scores are taken with.
        request: Hash of the prompt and of how it is answered.
        repetition: Number of times that the task asked the same before.
    """
    return derive_seed(seed, "scored_answer", request, repetition)


def student_seed(study_seed: int) -> int:
    """Return the seed of the starting student's random weights."""
    return derive_seed(study_seed, "student")


def warm_start_seed(study_seed: int) -> int:
    """Return the seed of the warm start's training."""
    return derive_seed(study_seed, "warm_start")


def pair_seed(study_seed: int, role: str) -> int:
    """Return a seed of the diagnosis of the pair; ``role``: ``prompts``, or whose answers."""
    return derive_seed(study_seed, "pair", role)


def verdict_seed(study_seed: int) -> int:
    """Return the seed that the verdict's statistics resample with."""
    return derive_seed(study_seed, "verdict")


def forest_seed(study_seed: int, arm: str) -> int:
    """Return the seed of the forests that measure the importance of an arm's parameters."""
    return derive_seed(study_seed, arm, "refits")


# Of a training: a trial's, or the warm start's.


def adapter_seed(training_seed: int) -> int:
    """Return the seed of a new adapter's weights."""
    return derive_seed(training_seed, "adapter")


def data_order_seed(training_seed: int) -> int:
    """Return the seed of the order of the data, and of dropout in the first process."""
    return derive_seed(training_seed, "data_order")


def dropout_seed(training_seed: int, rank: int) -> int:
    """Return the seed of dropout in a process next to the first, which ``rank`` counts from 1."""
    return derive_seed(training_seed, "dropout", rank)


def on_policy_seed(training_seed: int, step: int) -> int:
    """Return the seed that chooses the on-policy micro-batches of an optimiser step."""
    return derive_seed(training_seed, "coin", step)


def rollout_seed(training_seed: int, step: int) -> int:
    """Return the seed that the rollouts of an optimiser step are sampled with."""
    return derive_seed(training_seed, "rollout", step)


def served_rollout_seed(rollouts_seed: int, number: int) -> int:
    """Return the seed that a server samples one of a step's rollouts with.

    Args:
        rollouts_seed: What ``rollout_seed`` gives for the step.
        number: Number of the prompt among all of the step.
    """
    return derive_seed(rollouts_seed, number)
