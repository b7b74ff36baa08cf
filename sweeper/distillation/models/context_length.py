"""Context lengths of models, and checks of a study's texts against them.

A model with learned positions (GPT-2, OPT) has a table of them, and cannot read beyond its end.
Others (rotary embeddings) can read beyond the lengths that they were trained on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import nn
from transformers import AutoModelForCausalLM

from sweeper.config.lengths import Key, LengthLimits
from sweeper.config.models import ModelConfig
from sweeper.distillation.models.loading import read_config
from sweeper.foundation.errors import BadInputError

Models = Mapping[str, ModelConfig]
"""Models that read a text, by their roles."""

_RESERVED = 2
"""Number of rows that OPT's table has before the first position."""


def positions(model: ModelConfig) -> int | None:
    """Return the context length that the model was made for; None if it is not configured."""
    length = getattr(read_config(model).get_text_config(), "max_position_embeddings", None)
    return length if isinstance(length, int) and length > 0 else None


def ends(model: ModelConfig) -> bool:
    """Return whether the model cannot read longer texts: its positions are a table's rows."""
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
    """Check that an arm's training sequences and samples fit the models' context lengths.

    ``lengths`` are the tokens of the data's prompts and answers, before anything is cut.

    Returns:
        Notes on sequences beyond the lengths that a model was trained on.

    Raises:
        BadInputError: A sequence is longer than a model's table of positions.
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
    """Check ``sampled`` tokens after a prompt of ``prompt`` tokens, as ``check_text`` does."""
    found = f"{sampled} after a prompt of {prompt} tokens"
    return check_text(models, prompt + sampled, key, before=prompt, found=found)


def check_text(
    models: Models, tokens: int, key: Key, *, found: str, before: int = 0, unit: str = ""
) -> list[str]:
    """Check the length of one text.

    ``found`` are words for the length that the study asks for by ``key``, whose ``unit`` may not be
    obvious, and which does not count ``before`` tokens of the text.

    Returns:
        Notes on a text beyond the length that a model was trained on.

    Raises:
        BadInputError: The text is longer than a model's table of positions.
    """
    exceeded = []
    for role, model in models.items():
        count = positions(model)
        if count is None or tokens <= count:
            continue
        name = f"the {role} {model.model}"
        if ends(model):
            expected = f"at most {count - before}{unit}"
            if before >= count:
                expected = (
                    f"prompts of fewer than {count} tokens (training.max_length drops longer ones)"
                )
            raise BadInputError(
                f"expected {expected}, because {name} has {count} positions and no more,"
                f" found {found}",
                key,
            )
        exceeded.append((count, name))
    if not exceeded:
        return []
    count, name = min(exceeded, key=lambda pair: pair[0])
    return [
        f"{'.'.join(key)}: {found} is more than the {count} tokens that {name} was made for;"
        " its output beyond them may be worse"
    ]
