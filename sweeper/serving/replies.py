"""Replies of an OpenAI-compatible server, read with distrust."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


class NonsenseError(Exception):
    """A reply is not what the API promises: no JSON, no choices, tokens that do not exist."""


@dataclass(frozen=True)
class Reply:
    """One answer of a served model, or the reason why there is none."""

    text: str
    finished: bool = False
    """True if the model ended the answer by itself; False if ``max_tokens`` cut it."""
    tokens: tuple[int, ...] | None = None
    """Token ids of the answer, where the server gives them."""
    missing: str | None = None
    """Reason why there is no answer to train on: ``refused``, ``empty``, ``called a tool``."""
    prompt_tokens: int = 0
    """Tokens of the prompt, as the server counts and perhaps charges them."""
    completion_tokens: int = 0


def read_chat(body: Any) -> Reply:
    """Read a reply of ``/chat/completions``.

    Raises:
        NonsenseError: It has no choice with a message and a ``finish_reason``.
    """
    choice, reason = _choice(body)
    message = choice.get("message")
    if not isinstance(message, Mapping):
        raise NonsenseError("a choice without a message")
    content = message.get("content")
    if content is not None and not isinstance(content, str):
        raise NonsenseError("a message whose content is no text")
    missing = None
    if reason == "content_filter" or message.get("refusal"):
        missing = "refused"
    elif message.get("tool_calls"):
        missing = "called a tool"
    elif not (content or "").strip():
        missing = "empty"
    return Reply(_text(content or ""), reason not in _CUT, None, missing, *_usage(body))


def read_completion(body: Any, vocabulary: int) -> Reply:
    """Read a reply of vLLM's ``/completions`` that was asked with ``return_token_ids``.

    ``vocabulary`` is the number of token ids that there are.

    Raises:
        NonsenseError: It has no choice with ``token_ids`` and a ``finish_reason``.
    """
    choice, reason = _choice(body)
    text, tokens = choice.get("text"), choice.get("token_ids")
    if not isinstance(text, str):
        raise NonsenseError("a choice without a text")
    if not isinstance(tokens, list):
        raise NonsenseError("a choice without token_ids: is the server vLLM 0.10.2 or newer?")
    if not all(type(token) is int and 0 <= token < vocabulary for token in tokens):
        raise NonsenseError(f"token_ids that are not below {vocabulary}")
    missing = None if tokens else "empty"
    return Reply(_text(text), reason not in _CUT, tuple(tokens), missing, *_usage(body))


@dataclass(frozen=True)
class TokenReport:
    """What a served model reports of some positions of a text that it was given.

    Attributes:
        ids: Its most likely tokens at each position (positions × k), the most likely first; -1
            where tokens outside of the reader's vocabulary took the place.
        log_probs: Their log-probabilities in nats, at temperature 1; -inf where there is none.
        own: Log-probability of the token that stands at each position.
    """

    ids: list[list[int]]
    log_probs: list[list[float]]
    own: list[float]


def read_prompt_log_probs(
    body: Any, tokens: Sequence[int], positions: Sequence[int], k: int, vocabulary: int
) -> TokenReport:
    """Read a reply of vLLM's ``/completions`` that was asked with ``prompt_logprobs``.

    Tokens from ``vocabulary`` on, which are padding, are left out: what is reported are the
    probabilities given that none of them comes.

    Args:
        body: The reply.
        tokens: The prompt.
        positions: Positions in it to read, from 1: nothing is predicted at the first.
        k: Tokens to read at each, besides the one that stands there; at most ``vocabulary``.
        vocabulary: Number of token ids of the reader.

    Raises:
        NonsenseError: It does not have k tokens and the one that stands there, or they have no
            probabilities that can be.
    """
    choice, _ = _choice(body)
    reported = choice.get("prompt_logprobs")
    if not isinstance(reported, list):
        raise NonsenseError("a choice without prompt_logprobs: is the server vLLM?")
    if len(reported) != len(tokens):
        raise NonsenseError(f"prompt_logprobs of {len(reported)} tokens for {len(tokens)}")
    report = TokenReport([], [], [])
    for position in positions:
        found = dict(_tokens_at(reported[position], position))
        if (own := found.get(tokens[position])) is None:
            raise NonsenseError(f"no log-probability of the token at position {position}")
        if len(found) < k:
            raise NonsenseError(f"{len(found)} tokens at position {position}, not {k}")
        if (total := sum(map(math.exp, found.values()))) > 1 + _ROUNDING:
            raise NonsenseError(f"probabilities at position {position} that add up to {total:.4g}")
        padding = sum(math.exp(value) for token, value in found.items() if token >= vocabulary)
        # The token that stands there is none of them, and may have nearly nothing.
        scale = math.log1p(-min(padding, 1 - _SMALLEST))
        known = [(t, min(v - scale, 0.0)) for t, v in found.items() if t < vocabulary]
        known.sort(key=lambda one: (-one[1], one[0]))
        known = known[:k]
        absent = k - len(known)
        report.ids.append([token for token, _ in known] + [-1] * absent)
        report.log_probs.append([value for _, value in known] + [-math.inf] * absent)
        report.own.append(min(own - scale, 0.0))
    return report


_ROUNDING = 1e-2
"""What probabilities may add up to beyond 1, and log-probabilities be above 0."""
_SMALLEST = 1e-7
"""Smallest share of the probability that is told from rounding."""
_IMPOSSIBLE = -9999.0
"""What vLLM writes for a log-probability of -inf, which is no JSON."""
_TOKEN_ID = re.compile(r"0|[1-9][0-9]{0,9}")


def _tokens_at(entry: Any, position: int) -> Iterator[tuple[int, float]]:
    """Yield the tokens that are reported of one position, with their log-probabilities."""
    if not isinstance(entry, Mapping):
        raise NonsenseError(f"nothing about position {position}")
    for name, about in entry.items():
        if not _TOKEN_ID.fullmatch(str(name)):
            raise NonsenseError(f"a token at position {position} that is no id")
        value: Any = about.get("logprob") if isinstance(about, Mapping) else None
        if type(value) not in (int, float) or not -math.inf <= value <= _ROUNDING:
            raise NonsenseError(f"a token at position {position} without a log-probability")
        yield int(name), -math.inf if value <= _IMPOSSIBLE else min(float(value), 0.0)


_CUT = ("length", "max_tokens")
"""Values of ``finish_reason`` for an answer that a limit ended."""
_BROKEN = ("abort", "error")
"""Values for an answer that the server could not finish."""


def _choice(body: Any) -> tuple[Mapping[str, Any], str]:
    """Return the first choice and its ``finish_reason``."""
    choices = body.get("choices") if isinstance(body, Mapping) else None
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], Mapping):
        raise NonsenseError("no choices")
    reason = choices[0].get("finish_reason")
    if not isinstance(reason, str):
        raise NonsenseError("a choice without a finish_reason")
    if reason in _BROKEN:
        raise NonsenseError(f"an answer that the server broke off (finish_reason {reason})")
    return choices[0], reason


def _text(text: str) -> str:
    """Return a text without halves of characters, which JSON can hold and no tokenizer reads."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _usage(body: Mapping[str, Any]) -> tuple[int, int]:
    """Return the tokens of the prompt and of the answer; 0 where the server does not say."""
    usage = body.get("usage")
    counts = usage if isinstance(usage, Mapping) else {}
    prompt, answer = (counts.get(f"{part}_tokens") for part in ("prompt", "completion"))
    return _count(prompt), _count(answer)


def _count(value: object) -> int:
    return value if type(value) is int and value >= 0 else 0
