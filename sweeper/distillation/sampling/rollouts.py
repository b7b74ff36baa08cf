"""Sampling from a model: the student's rollouts and the teacher's stored answers.

``generate`` has decode loops of its own. ``model.generate`` decodes answers that have ended until
the longest has, copies the whole key-value cache for every token, and draws a random number for
every entry of the vocabulary, which on a CPU can cost as much as the model itself. Here an answer
that has ended makes room for the next prompt or leaves the batch smaller, the cache is written in
place, and a token costs one random number. On CUDA the shapes of a pass do not change
(``static_decoding``), elsewhere they follow the texts (``decoding``): equal logits give equal
tokens. Models that neither suits go through ``model.generate``.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from sweeper.distillation.models.loading import without_adapter
from sweeper.distillation.sampling import static_decoding, static_models
from sweeper.distillation.sampling.decoding import Batch, suits
from sweeper.distillation.sampling.drawing import NOT_FINITE, draw, exact_type
from sweeper.distillation.sampling.requests import Request
from sweeper.foundation.errors import DivergedError

_Answers = Generator[tuple[int, list[int]], None, None]
_Decode = Callable[[Any, Any, Request], _Answers]
Way = Literal["static", "loop", "generate"]
"""Decoding with fixed shapes, the loop of ``decoding.Batch``, or ``model.generate``."""
_OF_A_CLASS = (AttributeError, IndexError, KeyError, NotImplementedError, TypeError, ValueError)
"""Errors of a class that takes its states or masks in another form than it says."""


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
    request = Request(
        prompts,
        range(len(prompts)) if numbers is None else numbers,
        temperature,
        max_new_tokens,
        frozenset(end_ids),
        pad_id,
        seed,
        batch_size,
    )
    way, _ = way_of(model, request.longest)
    return _collect(model, request, report, _WAYS[way])


def generate_static(
    model: Any,
    request: Request,
    *,
    graphs: bool,
    report: Callable[[int], None] = lambda done: None,
) -> list[Rollout]:
    """Sample as ``generate`` does on CUDA, on any device: for tests and benchmarks.

    Args:
        model: A model that ``static_models.why_not`` has nothing against, or its adapter.
        request: What to sample.
        graphs: Capture passes as CUDA graphs.
        report: Gets the number of complete answers.

    Raises:
        DivergedError: The model's logits are not finite.
    """

    def decode(model: Any, base: Any, request: Request) -> _Answers:
        return static_decoding.decode(base, request, graphs=graphs)

    return _collect(model, request, report, decode)


def way_of(model: Any, length: int) -> tuple[Way, str | None]:
    """Return how ``generate`` decodes a model, and why not with fixed shapes if it does not.

    Args:
        model: The model, with its adapter if it has one.
        length: Most tokens of a text.
    """
    if getattr(getattr(model, "active_peft_config", None), "is_prompt_learning", False):
        return "generate", "a tuned prompt belongs to the wrapper, not to the model"
    base = without_adapter(model)
    device = next(base.parameters()).device.type
    if device != "cuda":
        problem: str | None = f"on {device} passes whose shapes change are no slower"
    elif (problem := static_models.why_not(base, length)) is None:
        return "static", None
    return ("loop" if suits(base, length) else "generate"), problem


def _collect(
    model: Any, request: Request, report: Callable[[int], None], decode: _Decode
) -> list[Rollout]:
    """Return the answers in the order of the prompts."""
    rollouts: dict[int, Rollout] = {}
    training = model.training
    model.eval()
    try:
        with closing(decode(model, without_adapter(model), request)) as answers:
            for index, tokens in answers:
                rollouts[index] = Rollout(tuple(tokens), tokens[-1] in request.ends)
                report(len(rollouts))
    finally:
        model.train(training)
    return [rollouts[index] for index in range(len(request.prompts))]


def _decode_static(model: Any, base: Any, request: Request) -> _Answers:
    """Yield what ``_decode`` would, with shapes that do not change if the model's class can."""
    answered = False
    try:
        with closing(static_decoding.decode(base, request, graphs=True)) as answers:
            for answer in answers:
                answered = True
                yield answer
    except _OF_A_CLASS as error:
        if answered:
            raise
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        static_decoding.tell_once(
            f"{type(base).__name__} cannot be decoded with fixed shapes, and is decoded more slowly"
            f" ({reason})"
        )
        other = _decode if suits(base, request.longest) else _delegate
        yield from other(model, base, request)


@torch.inference_mode()
def _decode(model: Any, base: Any, request: Request) -> _Answers:
    """Yield the index of each prompt and its answer, when that is complete."""
    prompts, limit = request.prompts, request.max_new_tokens
    batch = Batch(
        base,
        request.answers(),
        rows=request.batch_size,
        max_new_tokens=limit,
        pad_id=request.pad_id,
    )
    while (step := batch.read()) is not None:
        answers, logits = step
        _check_finite(logits)
        numbers = torch.tensor(
            [answer.random.random() for answer in answers],
            dtype=exact_type(logits.device),
            device=logits.device,
        )
        tokens = draw(logits, numbers, request.temperature).tolist()
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


def _delegate(model: Any, base: Any, request: Request) -> _Answers:
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


_WAYS: dict[Way, _Decode] = {"static": _decode_static, "loop": _decode, "generate": _delegate}
