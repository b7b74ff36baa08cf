"""A model that is loaded here, as lm-eval asks it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from lm_eval.models.huggingface import HFLM
from transformers import GenerationConfig

from sweeper.config.base import ScoringDtype
from sweeper.evaluation.gpu_likelihoods import FillingLM, free_memory


@contextmanager
def loaded_lm(
    model: Any, end_ids: Sequence[int], dtype: ScoringDtype | None, options: Mapping[str, Any]
) -> Iterator[HFLM]:
    """Yield lm-eval's view of a loaded model, and restore the model's mode and settings after.

    ``options`` are HFLM's. ``dtype`` is the declared precision, which the model computes in. On a
    GPU, texts are read as ``FillingLM`` does; elsewhere a ``batch_size`` of them at a time.

    Answers follow the task's settings alone: those that a publisher saved with a model (penalties,
    a temperature) are none of training's, and would score another model than the trained one.
    """
    # HFLM needs the bare model; the adapter's layers are inside it and stay active.
    bare = model.get_base_model() if hasattr(model, "get_base_model") else model
    training = model.training
    published = bare.generation_config
    model.eval()
    bare.generation_config = plain_generation(published, list(end_ids) or published.eos_token_id)
    try:
        # In 16 bits, a text's log-probabilities would be rounded, and summed rounded.
        exact = "float32" if dtype else None
        device = next(bare.parameters()).device
        view: Any = HFLM
        if device.type == "cuda":
            view = partial(FillingLM, partial(free_memory, device))
        yield view(pretrained=bare, softmax_dtype=exact, **options)
    finally:
        model.train(training)
        bare.generation_config = published


def plain_generation(published: GenerationConfig, ends: int | list[int] | None) -> GenerationConfig:
    """Return settings that take the likeliest token, and end at ``ends``."""
    return GenerationConfig(
        bos_token_id=published.bos_token_id, eos_token_id=ends, pad_token_id=published.pad_token_id
    )
