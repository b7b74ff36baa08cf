"""Sampling from a model: the student's rollouts and the teacher's stored answers.

``generate`` has a decode loop of its own. ``model.generate`` decodes answers that have ended until
the longest has, copies the whole key-value cache for every token, and draws a random number for
every entry of the vocabulary, which on a CPU can cost as much as the model itself. Here an answer
that has ended makes room for the next prompt or leaves the batch smaller, the cache is written in
place, and a token costs one random number. Other models go through ``model.generate``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from sweeper.distillation.models.loading import without_adapter
from sweeper.distillation.sampling.decoding import Answer, Batch, suits
from sweeper.foundation.errors import DivergedError

_Answers = Generator[tuple[int, list[int]], None, None]

NOT_FINITE = "The logits are not finite while sampling: training diverged."
"""Message of the error of a model that gives no distribution to sample from."""
_SMALL_VOCABULARY = 1024
"""Largest vocabulary that a token is drawn from at once; in larger ones a block is drawn first."""


@dataclass(frozen=True)
class Rollout:
    """One sampled answer."""

    tokens: tuple[int, ...]
    """Token ids, the end token included if there is one."""
    finished: bool
    """True if it ended by itself, rather than at ``max_new_tokens``."""
    log_probs: tuple[float, ...] | None = None
    """Log-probability of each token in nats, by the engine that sampled it; None if it does not
    report them."""
    log_probs_at: float = 1.0
    """Temperature of the distribution that ``log_probs`` are of."""

    def repetition(self) -> float | None:
        """Return the share of 4-grams that repeat an earlier one; None with fewer than 4 tokens.

        It is 1 - distinct 4-grams / 4-grams of the tokens, the end token included (seq-rep-4 of
        https://arxiv.org/abs/1908.04319).
        """
        count = len(self.tokens) - 3
        if count < 1:
            return None
        grams = zip(*(self.tokens[start : start + count] for start in range(4)), strict=True)
        return 1 - len(set(grams)) / count


def generate(
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
    """Sample one answer to each prompt from the model's own distribution at ``temperature``.

    The publisher's generation settings (top-k, repetition penalties) would change the distribution,
    and are ignored. The key-value cache is always on. Global random state is left as it was. At
    ``temperature`` 0 decoding is greedy.

    Unless the model needs ``model.generate``, each prompt has random numbers of its own, so that
    ``batch_size`` changes an answer by rounding only. Where several processes sample with this
    seed, ``numbers`` are those of the prompts among all, ascending: each prompt keeps its random
    numbers. They are the indices by default. ``report`` gets the number of complete answers.

    Raises:
        DivergedError: The model's logits are not finite.
    """
    if not prompts:
        return []
    request = _Request(
        prompts,
        range(len(prompts)) if numbers is None else numbers,
        temperature,
        max_new_tokens,
        frozenset(end_ids),
        pad_id,
        seed,
        batch_size,
    )
    base = without_adapter(model)
    # A tuned prompt belongs to the wrapper, not to the model.
    adapter = getattr(model, "active_peft_config", None)
    tuned_prompt = getattr(adapter, "is_prompt_learning", False)
    rollouts: dict[int, Rollout] = {}
    training = model.training
    model.eval()
    try:
        if not tuned_prompt and suits(base, max(map(len, prompts)) + max_new_tokens):
            answers = _decode(base, request)
        else:
            answers = _delegate(model, base, request)
        with closing(answers):
            for index, tokens in answers:
                rollouts[index] = Rollout(tuple(tokens), tokens[-1] in request.ends)
                report(len(rollouts))
    finally:
        model.train(training)
    return [rollouts[index] for index in range(len(prompts))]


@dataclass(frozen=True)
class _Request:
    """Arguments of ``generate``."""

    prompts: Sequence[Sequence[int]]
    numbers: Sequence[int]
    temperature: float
    max_new_tokens: int
    ends: frozenset[int]
    pad_id: int
    seed: int
    batch_size: int

    def order(self) -> list[int]:
        """Return the prompts' indices, longest first: memory peaks early, and the end is short."""
        indices = range(len(self.prompts))
        return sorted(indices, key=lambda index: len(self.prompts[index]), reverse=True)


@torch.inference_mode()
def _decode(model: Any, request: _Request) -> _Answers:
    """Yield the index of each prompt and its answer, when that is complete."""
    prompts, limit = request.prompts, request.max_new_tokens
    batch = Batch(
        model,
        [
            Answer(index, list(prompts[index]), f"{request.seed}/{request.numbers[index]}")
            for index in request.order()
        ],
        rows=request.batch_size,
        max_new_tokens=limit,
        pad_id=request.pad_id,
    )
    while (step := batch.read()) is not None:
        answers, logits = step
        _check_finite(logits)
        numbers = [answer.random.random() for answer in answers]
        tokens = _draw(logits, numbers, request.temperature)
        for answer, token in zip(answers, tokens, strict=True):
            answer.text.append(token)
            start = len(prompts[answer.index])
            if token in request.ends or len(answer.text) == start + limit:
                answer.done = True
                yield answer.index, answer.text[start:]


def _check_finite(logits: Tensor) -> None:
    """Check that there is a distribution to sample from; a GPU would end the process otherwise.

    Raises:
        DivergedError: A row has no largest logit.
    """
    if not bool(logits.amax(-1).isfinite().all()):
        raise DivergedError(NOT_FINITE)


class _Finite(LogitsProcessor):  # type: ignore[misc]
    """Check of the logits inside ``model.generate``."""

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        _check_finite(scores)
        return scores


def _draw(logits: Tensor, numbers: list[float], temperature: float) -> list[int]:
    """Draw a token for each row from ``softmax(logits / temperature)``.

    Inverse transform sampling: the token at which the running sum of the probabilities passes a
    uniform number. In a large vocabulary a block of tokens is drawn first, then one of its tokens,
    because the running sum over all of them would take more memory than the logits.

    Args:
        logits: Logits, [rows, vocabulary].
        numbers: Number in [0, 1) for each row.
        temperature: Sampling temperature; 0 takes the likeliest token.
    """
    if temperature == 0:
        return list(logits.argmax(-1).tolist())
    # Sums in float32, the widest type of Apple's devices, would lose the rarest tokens.
    exact = torch.float32 if logits.device.type == "mps" else torch.float64
    uniform = torch.tensor(numbers, dtype=exact, device=logits.device)[:, None]
    chances = (logits.float() / temperature).softmax(-1)
    vocabulary = chances.shape[-1]
    if vocabulary <= _SMALL_VOCABULARY:
        return list(_pick(chances.to(exact), uniform)[0][:, 0].tolist())
    width = math.isqrt(vocabulary)
    blocks = pad(chances, (0, -vocabulary % width)).view(len(numbers), -1, width)
    masses = blocks.sum(-1, dtype=exact)
    block, sums = _pick(masses, uniform)
    rest = (uniform * sums[:, -1:] - sums.gather(-1, block)) / masses.gather(-1, block) + 1
    token, _ = _pick(blocks.take_along_dim(block[..., None], 1)[:, 0].to(exact), rest)
    return list((block * width + token).clamp(max=vocabulary - 1)[:, 0].tolist())


def _pick(masses: Tensor, shares: Tensor) -> tuple[Tensor, Tensor]:
    """Find where running sums of ``masses`` [rows, choices] pass ``shares`` [rows, 1] of totals.

    Returns:
        The choices, [rows, 1], and the running sums, [rows, choices].
    """
    count = masses.shape[-1]
    sums = masses @ _triangle(count, masses.dtype, masses.device)
    chosen = torch.searchsorted(sums, shares * sums[:, -1:], right=True)
    return chosen.clamp(max=count - 1), sums


@lru_cache(maxsize=8)
def _triangle(size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return the matrix whose product gives running sums; CUDA has no deterministic cumsum."""
    return torch.ones(size, size, dtype=dtype, device=device).triu()


def _delegate(model: Any, base: Any, request: _Request) -> _Answers:
    """Yield what ``_decode`` would, by ``model.generate``, batch by batch."""
    prompts, pad_id, temperature = request.prompts, request.pad_id, request.temperature
    settings = GenerationConfig(
        max_new_tokens=request.max_new_tokens,
        do_sample=temperature > 0,
        **({"temperature": temperature, "top_k": 0, "top_p": 1.0} if temperature > 0 else {}),
        repetition_penalty=1.0,
        use_cache=True,
        eos_token_id=sorted(request.ends),
        pad_token_id=pad_id,
    )
    device = next(model.parameters()).device
    order = request.order()
    with _undisturbed(base, settings, device, request.seed + request.numbers[0]):
        for start in range(0, len(order), request.batch_size):
            indices = order[start : start + request.batch_size]
            width = len(prompts[indices[0]])
            batch = [prompts[index] for index in indices]
            padded = [[pad_id] * (width - len(prompt)) + list(prompt) for prompt in batch]
            mask = [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in batch]
            tokens = model.generate(
                input_ids=torch.tensor(padded, device=device),
                attention_mask=torch.tensor(mask, device=device),
                generation_config=settings,
                logits_processor=LogitsProcessorList([_Finite()]),
            )
            for index, row in zip(indices, tokens[:, width:].tolist(), strict=True):
                ended = [position for position, token in enumerate(row) if token in request.ends]
                yield index, row[: ended[0] + 1] if ended else row


@contextmanager
def _undisturbed(
    base: Any, settings: GenerationConfig, device: torch.device, seed: int
) -> Iterator[None]:
    """Sample with ``settings`` and ``seed``, then restore the model's and the global state."""
    inherited = base.generation_config
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        base.generation_config = settings
        try:
            yield
        finally:
            base.generation_config = inherited
