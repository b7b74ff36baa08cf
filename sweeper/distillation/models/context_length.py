"""How far a model's positions reach, and what of a study would go beyond them.

A model that learned its positions (GPT-2, OPT) has a table of them, and cannot read on where that
ends. Others (rotary embeddings) read on, past the lengths that they were trained on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NoReturn

import torch
from torch import nn
from transformers import AutoModelForCausalLM

from sweeper.config.lengths import Key, LengthLimits
from sweeper.config.models import ModelConfig
from sweeper.distillation.models.loading import read_config
from sweeper.foundation.errors import BadInputError

Models = Mapping[str, ModelConfig]
"""Those that read a text, by their roles."""

_RESERVED = 2
"""Rows that OPT's table has before the first position."""


def positions(model: ModelConfig) -> int | None:
    """Tokens of the longest text that the model was made for; None if it does not say."""
    found = getattr(read_config(model).get_text_config(), "max_position_embeddings", None)
    return found if isinstance(found, int) and found > 0 else None


def ends(model: ModelConfig) -> bool:
    """Whether the model cannot read longer texts at all: its positions are rows of a table."""
    config = read_config(model)
    count = positions(model)
    if count is None or hasattr(config.get_text_config(), "rope_parameters"):
        return False
    with torch.device("meta"):
        built = AutoModelForCausalLM.from_config(config, trust_remote_code=model.trust_remote_code)
    tables = [
        len(module.weight)
        for module in built.modules()
        if isinstance(module, nn.Embedding) and module is not built.get_input_embeddings()
    ]
    tables += [len(buffer) for buffer in built.buffers() if buffer.dim() == 2]
    return any(count <= rows <= count + _RESERVED for rows in tables)


def check_lengths(
    models: Models, limit: LengthLimits, lengths: Sequence[tuple[int, int]]
) -> list[str]:
    """Check that what an arm trains on, and samples, ends within the models' positions.

    Args:
        models: The teacher and the student.
        limit: What limits its sequences.
        lengths: Tokens of the data's prompts and answers, before anything is cut.

    Returns:
        What to tell the user of sequences that go beyond the lengths a model was trained on.

    Raises:
        BadInputError: One goes beyond the positions of a model that has no more.
    """
    kept = [(prompt, answer) for prompt, answer in lengths if prompt < limit.longest]
    if not kept:
        return []
    longest = max(min(prompt + answer, limit.longest) for prompt, answer in kept)
    found = f"{limit.longest} and a sequence of {longest} tokens"
    notes = check_text(models, longest, limit.longest_key, found=found)
    if limit.sampled is None:
        return notes
    prompt = max(prompt for prompt, _ in kept)
    return notes + check_sampled(models, prompt, limit.sampled, limit.sampled_key)


def check_sampled(models: Models, prompt: int, sampled: int, key: Key) -> list[str]:
    """The same for so many tokens that are sampled after a prompt of so many."""
    found = f"{sampled} after a prompt of {prompt} tokens"
    return check_text(models, prompt + sampled, key, before=prompt, found=found)


def check_text(
    models: Models, tokens: int, key: Key, *, found: str, before: int = 0, unit: str = ""
) -> list[str]:
    """The same for one text.

    Args:
        models: What reads it.
        tokens: Its length.
        key: The key of the study file that is to blame.
        found: What was found there.
        before: How much of the text the key says nothing of.
        unit: What the key counts, if that is not plain.
    """
    passed = []
    for role, model in models.items():
        count = positions(model)
        if count is None or tokens <= count:
            continue
        name = f"the {role} {model.model}"
        if ends(model):
            _refuse(name, count, key, found=found, before=before, unit=unit)
        passed.append((count, name))
    if not passed:
        return []
    count, name = min(passed, key=lambda one: one[0])
    return [
        f"{'.'.join(key)}: {found} is more than the {count} tokens that {name} was made for; what"
        " it says beyond them may be worse"
    ]


def _refuse(model: str, count: int, key: Key, *, found: str, before: int, unit: str) -> NoReturn:
    expected = f"at most {count - before}{unit}"
    if before >= count:
        expected = f"prompts of fewer than {count} tokens (training.max_length drops longer ones)"
    raise BadInputError(
        f"expected {expected}, because {model} has {count} positions and no more, found {found}",
        key,
    )
