"""Saving of a trained student as a directory that transformers, or PEFT, loads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from transformers import GenerationConfig, PreTrainedTokenizerBase

from sweeper.config.base import ScoringDtype
from sweeper.distillation.models.answer_ends import end_token_ids
from sweeper.records import KeptStudent


def save_student(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    keep: KeptStudent,
    revision: str | None,
    dtype: ScoringDtype | None = None,
) -> None:
    """Write the student's weights, as safetensors, with tokenizer and generation settings.

    Weights keep the type that they were trained in. ``dtype``, the precision that the student was
    scored in, becomes the one that it is loaded in by default. An adapter that is to be merged is
    gone from ``model`` afterwards. ``revision`` is that of the model below an adapter.
    """
    directory = Path(keep.directory)
    adapted = hasattr(model, "merge_and_unload")
    bare = model.get_base_model() if adapted else model
    generation = _generation_config(bare, end_token_ids(bare, tokenizer), tokenizer)
    if adapted and keep.merged:
        if dtype == "float32":
            # In 16 bits the sums would be rounded to weights that nobody scored.
            bare.float()
        model = model.merge_and_unload()
    if adapted and not keep.merged:
        for adapter in model.peft_config.values():
            adapter.base_model_name_or_path = keep.base
            adapter.revision = revision
        # The embeddings are not trained; by default PEFT would query the hub to make sure.
        model.save_pretrained(directory, save_embedding_layers=False)
    else:
        # Gradient checkpointing turns the cache off.
        model.config.use_cache = True
        model.generation_config = generation
        model.save_pretrained(directory)
        if dtype is not None:
            path = directory / "config.json"
            config = {**json.loads(path.read_text(encoding="utf-8")), "dtype": dtype}
            path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    generation.save_pretrained(directory)
    # Padding and truncation of training batches are no part of the tokenizer.
    tokenizer.backend_tokenizer.no_truncation()
    tokenizer.backend_tokenizer.no_padding()
    tokenizer.save_pretrained(directory)


def _generation_config(
    model: Any, ends: list[int], tokenizer: PreTrainedTokenizerBase
) -> GenerationConfig:
    """Return settings that answer as the student was scored: no penalty, no sampling.

    What a publisher saved with the start (a temperature, a repetition penalty) was no part of it.
    """
    return GenerationConfig(
        bos_token_id=model.generation_config.bos_token_id,
        eos_token_id=ends,
        pad_token_id=tokenizer.pad_token_id,
    )
