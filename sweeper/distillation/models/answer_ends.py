"""The tokens that end an answer."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase


def end_token_ids(model: Any, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return every token that ends an answer: the model's, the tokenizer's and the template's.

    Base models often lack the template's end-of-turn token, so their samples run past the turn.
    """
    configured = model.generation_config.eos_token_id
    ids = {*turn_end_ids(tokenizer)}
    ids.update(configured if isinstance(configured, list) else [configured])
    return sorted(token for token in ids if token is not None)


def turn_end_ids(tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Return the tokens that end an answer: the tokenizer's end token and its template's own."""
    text, call = answer_ends(tokenizer)
    return {int(tokenizer.eos_token_id), text, call}


def answer_ends(tokenizer: PreTrainedTokenizerBase) -> tuple[int, int]:
    """Return the token that ends an answer of text, and the one that ends a call of a tool.

    It is the special token that the template puts after the answer; else the one that begins the
    next turn (GLM-4's ``<|user|>`` and ``<|observation|>``), which the model itself writes where it
    stops; else the tokenizer's end token.
    """
    answer, function = "\N{BLACK STAR} answer", "look_it_up"
    asked = {"role": "user", "content": "question"}
    said = {"role": "assistant", "content": answer}
    call = {"type": "function", "function": {"name": function, "arguments": {"a": 1}}}
    # Of two calls, so that what ends each of them is not taken for the end; some allow one only.
    called, once = (
        {"role": "assistant", "content": "", "tool_calls": [call] * count} for count in (2, 1)
    )
    result = {"role": "tool", "name": function, "content": "result"}
    added = tokenizer.added_tokens_decoder

    def render(*turns: dict[str, Any]) -> str:
        with suppress(TemplateError, TypeError, ValueError, KeyError, AttributeError):
            return str(tokenizer.apply_chat_template(list(turns), tokenize=False))
        return ""

    def special(text: str, position: int) -> int | None:
        tokens = tokenizer(text, add_special_tokens=False)["input_ids"]
        token = tokens[position] if tokens else -1
        return int(token) if token in added and added[token].special else None

    after_text = after_call = None
    for text in (render(asked, said), render(asked, said, asked)):
        if after_text is None and answer in text:
            after_text = special(text.rpartition(answer)[2], 0)
    if function not in (alone := render(asked, called)):
        called, alone = once, render(asked, once)
    if function in alone:
        after_call = special(alone.rstrip(), -1)
        written = tokenizer(alone.partition(function)[2], add_special_tokens=False)["input_ids"]
        if after_call is None or written.count(after_call) > 1:
            answered = render(asked, called, result)
            following = answered[len(alone) :] if answered.startswith(alone) else ""
            after_call = special(following, 0)
    end = int(tokenizer.eos_token_id) if after_text is None else after_text
    return end, end if after_call is None else after_call
