"""A trained student as a directory that transformers, or PEFT, loads: saving and loading of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedTokenizerBase,
)

from sweeper.config.base import ScoringDtype
from sweeper.config.models import StudentConfig
from sweeper.distillation.models.adapters import load_adapted, merged_in_place
from sweeper.distillation.models.answer_ends import end_token_ids
from sweeper.distillation.models.quantization import keep_trainable, load_options
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
        # Rounded sums would be weights that nobody scored.
        model = merged_in_place(model, in_float32=dtype == "float32")
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


def load_saved(
    keep: KeptStudent, student: StudentConfig, device: str, dtype: ScoringDtype | None
) -> tuple[Any, PreTrainedTokenizerBase]:
    """Load what ``save_student`` wrote as its card says: by transformers, or PEFT, alone.

    Args:
        keep: The saved student.
        student: The student's configuration, for how its weights are placed and rounded.
        device: Device to load it on.
        dtype: Precision that it was scored in; None: as it is stored.

    Returns:
        The model in evaluation mode, and its tokenizer.
    """
    directory = Path(keep.directory)
    options: dict[str, Any] = {
        "dtype": dtype or "auto",
        "trust_remote_code": student.trust_remote_code,
    }
    for name in ("attn_implementation", "device_map", "quantization_config"):
        if name in student.init_kwargs:
            options[name] = student.init_kwargs[name]
    if not (directory / "adapter_config.json").is_file():
        model = AutoModelForCausalLM.from_pretrained(directory, **options)
    else:
        if student.quantization is not None:
            options |= load_options(student, dtype or student.dtype, device)
        model = load_adapted(directory, options)
        # PEFT leaves that of the model below, which may ask for samples.
        model.generation_config = GenerationConfig.from_pretrained(directory)
    # Its digits are to be those of training and scoring.
    keep_trainable(model)
    if "device_map" not in options:
        model = model.to(device)
    tokenizer = AutoTokenizer.from_pretrained(
        directory, trust_remote_code=student.trust_remote_code
    )
    return model.eval(), tokenizer


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
