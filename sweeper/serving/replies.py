"""Replies of an OpenAI-compatible server, read with distrust."""

from __future__ import annotations

from collections.abc import Mapping
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
