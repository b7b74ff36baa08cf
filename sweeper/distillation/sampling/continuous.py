"""Sampling by transformers' continuous batching, which pages the key-value cache.

It is meant for GPUs: with flash attention it captures CUDA graphs and reads the cache in place.
With other attentions every token attends, masked, to the texts of all rows, which costs more the
more rows there are.

The library runs the model in a thread of its own. Autocast belongs to a thread, so the precision of
the caller is carried over.
"""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import ContinuousBatchingConfig, GenerationConfig
from transformers.generation import ContinuousBatchingManager, ContinuousMixin
from transformers.generation.continuous_batching.utils import WorkloadHints

from sweeper.distillation.models.loading import without_adapter
from sweeper.distillation.sampling.drawing import NOT_FINITE
from sweeper.distillation.sampling.rollouts import Rollout
from sweeper.foundation.errors import DivergedError

_PAGE = 256
"""Tokens of a page: flash attention's kernels ask for a multiple of this."""
_PROMPT_TOKENS = 1024
"""Tokens of prompts that one pass reads, at most: a mask has this many rows."""
_SECONDS = 1.0
"""Seconds between two looks whether the library's thread is alive."""


def generate_continuously(
    model: Any,
    prompts: Sequence[Sequence[int]],
    *,
    temperature: float,
    max_new_tokens: int,
    end_ids: Sequence[int],
    pad_id: int,
    seed: int,
    batch_size: int,
    numbers: Sequence[int] | None = None,
    report: Callable[[int], None] = lambda done: None,
) -> list[Rollout]:
    """Sample one answer to each prompt, as ``rollouts.generate`` does, and with its arguments.

    All answers draw from one stream of random numbers: the seed, the prompts, ``batch_size`` and
    ``numbers`` decide them together, as far as the device computes the same logits twice. A prompt
    more or another ``batch_size`` changes all of them. Log-probabilities are those of the
    distribution that was sampled from: at ``temperature``, or at 1 if that is 0.

    Raises:
        DivergedError: The model's logits are not finite.
        ValueError: The model is not one for this engine; see ``why_not``.
    """
    if not prompts:
        return []
    base = without_adapter(model)
    if reason := why_not(model):
        raise ValueError(reason)
    first = 0 if numbers is None else numbers[0]
    device = next(model.parameters()).device
    training, attention = model.training, base.config._attn_implementation
    model.eval()
    try:
        with (
            torch.random.fork_rng(devices=[device] if device.type == "cuda" else []),
            _little_to_collect(),
        ):
            student = _Student(base, device)
            manager = student.init_continuous_batching(
                generation_config=_settings(temperature, max_new_tokens, end_ids, pad_id),
                continuous_batching_config=_capacity(
                    [len(prompt) + max_new_tokens for prompt in prompts], batch_size, seed + first
                ),
                workload_hints=WorkloadHints(max(map(len, prompts)), max_new_tokens, len(prompts)),
            )
            outputs = _run(manager, prompts, report)
    finally:
        model.train(training)
        if base.config._attn_implementation != attention:
            base.set_attn_implementation(attention)
    if bool(student.diverged):
        raise DivergedError(NOT_FINITE)
    ends = frozenset(end_ids)
    return [
        Rollout(
            tuple(output.generated_tokens),
            output.generated_tokens[-1] in ends,
            tuple(output.logprobs),
            temperature or 1.0,
        )
        for output in outputs
    ]


def why_not(model: Any) -> str | None:
    """Return why continuous batching cannot run a model, as far as it is plain without running it.

    Args:
        model: The model, with or without weights, and with its adapter if it has one.
    """
    base = without_adapter(model)
    if getattr(getattr(model, "active_peft_config", None), "is_prompt_learning", False):
        return "the adapter is a tuned prompt, which belongs to the wrapper and not to the model"
    if not type(base).__module__.startswith("transformers."):
        return f"{type(base).__name__} is code of the model's repository"
    config = base.config.get_text_config()
    if not isinstance(base, ContinuousMixin) or not base._supports_attention_backend:
        return f"{type(base).__name__} does not take an attention with pages"
    layers = set(getattr(config, "layer_types", None) or ())
    if others := sorted(layers - {"full_attention", "sliding_attention"}):
        return f"its layers are not all attention: {', '.join(others)}"
    if getattr(config, "attn_logit_softcapping", None) is not None:
        return "its attention caps its logits (attn_logit_softcapping), which pages leave out"
    attention = str(base.config._attn_implementation)
    if attention not in ("sdpa", "eager") and not attention.startswith("flash_attention"):
        return f"attn_implementation: {attention} has no pages (use sdpa, or flash_attention_2)"
    return None


def _settings(
    temperature: float, max_new_tokens: int, end_ids: Sequence[int], pad_id: int
) -> GenerationConfig:
    """Return settings that leave the model's distribution as it is."""
    chances = {"temperature": temperature, "top_k": 0, "top_p": 1.0} if temperature > 0 else {}
    return GenerationConfig(
        max_new_tokens=max_new_tokens,
        do_sample=temperature > 0,
        **chances,
        repetition_penalty=1.0,
        # -1: none. Without a value, the library would take the model's own.
        eos_token_id=sorted(end_ids) or -1,
        pad_token_id=pad_id,
    )


def _capacity(lengths: Sequence[int], batch_size: int, seed: int) -> ContinuousBatchingConfig:
    """Return the size of the cache: by default it would take most of the free memory.

    Args:
        lengths: Most tokens of each text, its answer included.
        batch_size: Texts at a time.
        seed: Seed of the random numbers.
    """
    rows = min(batch_size, len(lengths))
    longest = sorted(lengths, reverse=True)[:rows]
    return ContinuousBatchingConfig(
        page_size=_PAGE,
        num_blocks=sum(math.ceil(length / _PAGE) for length in longest) + 1,
        max_batch_tokens=max(rows, min(_PROMPT_TOKENS, sum(longest))),
        max_requests_per_batch=rows,
        # There is room for every row's whole text.
        safety_margin=0.0,
        # It would change the environment; no pass of a process waits for another's.
        disable_nccl_graph_mixing=False,
        return_logprobs=True,
        seed=seed,
        # The attention is the study's to choose.
        auto_switch_to_flash=False,
    )


def _run(
    manager: ContinuousBatchingManager,
    prompts: Sequence[Sequence[int]],
    report: Callable[[int], None],
) -> list[Any]:
    """Return the library's outputs in the order of the prompts.

    ``generate_batch`` would begin before all prompts are there, so that it is up to chance which
    ones share a pass, and with it the random numbers. It also swallows errors.
    """
    outputs: dict[str, Any] = {}
    failure = None
    names = manager.add_requests([list(prompt) for prompt in prompts])
    status = manager.background_thread_status
    try:
        manager.start()
        # The thread ends when there is nothing left to do.
        status.request_stop(status.FLUSH_AND_STOP, global_rank=0)
        while len(outputs) < len(prompts) and failure is None:
            output = manager.get_result(timeout=_SECONDS)
            if output is not None and output.error is not None:
                failure = output.error
            elif output is not None:
                outputs[output.request_id] = output
                report(len(outputs))
            elif not manager.is_running():
                failure = "its thread ended too early"
    finally:
        manager.stop(hard_stop=True)
        manager.destroy()
    if status.fatal_error is not None:
        raise status.fatal_error
    if failure is not None:
        raise RuntimeError(f"transformers' continuous batching failed: {failure}")
    return [outputs[name] for name in names]


@contextmanager
def _little_to_collect() -> Iterator[None]:
    """Keep what there is out of garbage collections.

    The library collects garbage twice in each call, which takes half a second with all libraries
    loaded.
    """
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


class _Student(ContinuousMixin):  # type: ignore[misc]
    """The student as the library calls it: in the caller's precision, with its logits checked.

    Attributes:
        diverged: True once logits were not finite; on the device, so that nothing waits for it.
    """

    def __init__(self, model: Any, device: torch.device) -> None:
        self.config = model.config
        self.generation_config = model.generation_config
        self.device = device
        self.dtype = model.dtype
        self.diverged = torch.zeros((), dtype=torch.bool, device=device)
        self._model = model
        self._cache: Any = None
        self._autocasts = torch.is_autocast_enabled(device.type)
        if self._autocasts:
            self.dtype = torch.get_autocast_dtype(device.type)

    def __getattr__(self, name: str) -> Any:
        """Return what else the library asks of a model."""
        return getattr(self._model, name)

    def eval(self) -> _Student:
        """Return the model, which is in this mode."""
        return self

    def __call__(self, *, cache: Any, **inputs: Any) -> Any:
        """Run one pass."""
        if self._autocasts and not torch.is_autocast_enabled(self.device.type):
            # Until the thread ends: at its end, autocast forgets the weights that it has rounded.
            torch.autocast(self.device.type, self.dtype).__enter__()  # type: ignore[no-untyped-call]
        if cache is not self._cache:
            self._cache = cache
            _round_states(cache)
        output = self._model(cache=cache, **inputs)
        # In a graph nothing can be raised, and no distribution ends a GPU's process.
        bad = ~output.logits.amax(-1, keepdim=True).isfinite()
        self.diverged.logical_or_(bad.any())
        output.logits = output.logits.masked_fill(bad, 0.0)
        return output


def _round_states(cache: Any) -> None:
    """Let a cache take keys and values that autocast or quantization left in another precision."""
    update = cache.update

    def rounded(key_states: Tensor, value_states: Tensor, **others: Any) -> Any:
        states = (key_states.to(cache.dtype), value_states.to(cache.dtype))
        return update(*states, **others)

    cache.update = rounded
