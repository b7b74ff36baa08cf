"""Which studies have vLLM servers for students' weights, and what cannot go with them."""

from __future__ import annotations

import sys
from collections.abc import Iterator

from sweeper.config.base import KeyPath, Refusal
from sweeper.config.lengths import arm_lengths, has_engine, samples
from sweeper.config.study import StudyConfig

MAX_LENGTH: KeyPath = ("compute", "vllm", "max_length")
"""Key of the most tokens of a prompt with its answer."""


def samples_rollouts(config: StudyConfig) -> bool:
    """Return whether a trial may sample from its student by an engine of the study's."""
    return any(samples(arm) and has_engine(config, arm) for arm in config.arms.values())


def students_server_key(config: StudyConfig) -> KeyPath | None:
    """Return the key that asks for servers of students' weights; None if none does.

    ``rollouts.engine: auto`` asks for none, but tries one.
    """
    if config.evaluation.engine == "vllm":
        return ("evaluation", "engine")
    if config.rollouts.engine == "vllm" and samples_rollouts(config):
        return ("rollouts", "engine")
    return None


def may_serve_students(config: StudyConfig) -> bool:
    """Return whether a study has servers of students' weights, or tries one."""
    if students_server_key(config) is not None:
        return True
    tried = config.rollouts.engine == "auto" and samples_rollouts(config)
    # One node's answer is none for the others of a cluster.
    return tried and config.compute.executor == "local" and not list(_unfit(config))


def served_students_problems(config: StudyConfig) -> Iterator[Refusal]:
    """Yield what keeps students' weights from being served; keys that then do nothing."""
    key = students_server_key(config)
    if key is not None:
        for reason in _unfit(config):
            yield key, f"expected another engine than vllm {reason}"
        longest = config.compute.vllm.max_length
        sampled, of_key = longest_rollout(config)
        if longest is not None and longest <= sampled:
            named = ".".join(map(str, of_key))
            message = (
                f"expected more than {sampled} ({named}), found {longest}: a prompt with its answer"
                " has to fit"
            )
            yield MAX_LENGTH, message
    elif "vllm" in config.compute.model_fields_set and config.rollouts.engine != "auto":
        message = "has no effect without rollouts.engine: vllm or auto, or evaluation.engine: vllm"
        yield ("compute", "vllm"), message


def longest_rollout(config: StudyConfig) -> tuple[int, KeyPath]:
    """Return most tokens that a server samples after a prompt, and their key; 0 if it samples none.

    ``evaluation.engine`` does not count.
    """
    if config.rollouts.engine not in ("vllm", "auto"):
        return 0, ()
    lengths = (
        arm_lengths(config, name) for name, arm in config.arms.items() if has_engine(config, arm)
    )
    found = [(one.sampled, one.sampled_key) for one in lengths if one.sampled is not None]
    sampled, key = max(found, default=(0, ()))
    return sampled, key or ("max_new_tokens",)


def _unfit(config: StudyConfig) -> Iterator[str]:
    """Yield why students' weights cannot be served."""
    compute = config.compute
    if sys.platform != "linux":
        yield "on this machine: vLLM runs on Linux"
    if compute.device == "mps":
        yield "with compute.device: mps, which vLLM does not run on"
    if compute.devices_per_trial > 1:
        yield (
            "with compute.devices_per_trial: its server has one device, and a student that several"
            " processes train is in none of them whole"
        )
    student = config.student
    if student.quantization is not None or "quantization_config" in student.init_kwargs:
        yield (
            "with a quantized student: an adapter merged into its weights would be rounded once"
            " more, and be another student"
        )
