"""Prompts as a served teacher is asked them, and its answers as the student's tokens."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from transformers import PreTrainedTokenizerBase

from sweeper.config.remote_server import RemoteServer
from sweeper.config.server import Server
from sweeper.distillation.data.answers import AnswerTokens, last_answer
from sweeper.distillation.data.calls import Message
from sweeper.distillation.data.conversations import Example
from sweeper.distillation.data.examples import render_prompt
from sweeper.distillation.data.training_data import TrainingData
from sweeper.distillation.models.answer_ends import answer_ends, turn_end_ids
from sweeper.distillation.teacher.served_answers import Request
from sweeper.foundation.cache import content_key
from sweeper.foundation.errors import BadInputError
from sweeper.records.seeds import served_answer_seed
from sweeper.serving.replies import Reply, read_chat, read_completion

_OF_MESSAGE = ("role", "content", "name", "tool_call_id")
"""Keys of a message that the API knows, next to calls of tools."""


def requests(data: TrainingData, asked: TrainingData, server: Server) -> list[Request]:
    """Return what the server is asked for each example, but for the model's name there.

    Args:
        data: The study's data.
        asked: The data with the tokenizer that the teacher reads prompts by.
        server: The server.

    Raises:
        BadInputError: A row has arguments of the chat template, which no server is asked with.
    """
    extra = server.extra_body if isinstance(server, RemoteServer) else {}
    given = {name: value for name, value in extra.items() if value is not None}
    chosen = {**given, **_sampling(data, server, extra)}
    repeated: Counter[str] = Counter()
    found = []
    for number, example in enumerate(data.examples, start=1):
        if server.gives_tokens:
            prompt = _token_prompt(example, data.tokenizer, asked.tokenizer)
        else:
            prompt = _messages(example, number)
        body = {**chosen, **prompt}
        if "temperature" in body and body["temperature"] and "seed" not in extra:
            key = content_key(prompt)
            body["seed"] = served_answer_seed(data.inputs.seed, key, repeated[key])
            repeated[key] += 1
        if server.gives_tokens:
            read = partial(read_completion, vocabulary=len(asked.tokenizer))
            found.append(Request("completions", body, read, number))
        else:
            found.append(Request("chat/completions", body, read_chat, number))
    return found


def _sampling(data: TrainingData, server: Server, extra: Mapping[str, Any]) -> dict[str, Any]:
    settings = data.inputs.teacher_outputs
    chosen: dict[str, Any] = {
        "temperature": settings.temperature,
        "max_tokens": settings.max_new_tokens,
    }
    left_out = {name for name, value in extra.items() if value is None}
    chosen = {name: value for name, value in chosen.items() if name not in left_out}
    if server.gives_tokens:
        # Not the model's own generation settings, which vLLM reads: its distribution as it is.
        plain = {"top_p": 1.0, "top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0}
        chosen |= {k: v for k, v in plain.items() if k not in extra}
        chosen["return_token_ids"] = True
    return chosen


def _token_prompt(
    example: Example, ours: PreTrainedTokenizerBase, theirs: PreTrainedTokenizerBase
) -> dict[str, Any]:
    prompt = theirs(render_prompt(example, theirs), add_special_tokens=False)["input_ids"]
    return {
        "prompt": [int(token) for token in prompt],
        "stop_token_ids": sorted(turn_end_ids(theirs) | turn_end_ids(ours)),
    }


def _messages(example: Example, number: int) -> dict[str, Any]:
    if example.options:
        raise BadInputError(
            f"expected no chat_template_kwargs in {example.where(number)}: a server that is asked"
            " by messages has a template of its own",
            ("data", "train"),
        )
    tools = {"tools": example.tools} if example.tools else {}
    return {"messages": _in_the_apis_form(example.messages), **tools}


def _in_the_apis_form(messages: Sequence[Message]) -> list[Message]:
    """Return messages as OpenAI's API takes them: calls have ids, and their arguments are JSON."""
    written: list[Message] = []
    open_calls: list[str] = []
    for turn in messages:
        message = {key: turn[key] for key in _OF_MESSAGE if key in turn}
        if calls := turn.get("tool_calls"):
            start = sum(len(one.get("tool_calls", ())) for one in written)
            message["tool_calls"] = [
                _call(call, f"call_{start + index}") for index, call in enumerate(calls)
            ]
            open_calls = [call["id"] for call in message["tool_calls"]]
        elif turn["role"] not in ("system", "developer", "user", "assistant"):
            message["role"] = "tool"
            if "tool_call_id" not in message and open_calls:
                message["tool_call_id"] = open_calls.pop(0)
        written.append(message)
    return written


def _call(call: Message, name: str) -> Message:
    function = call["function"]
    arguments = json.dumps(function.get("arguments", {}))
    return {
        "id": str(call.get("id", name)),
        "type": "function",
        "function": {"name": function["name"], "arguments": arguments},
    }


class AnswersAsTokens:
    """Turns a served teacher's answers into token ids of the student's.

    Args:
        tokenizer: The student's.
        teacher: The tokenizer that the teacher reads prompts by; has its end tokens.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, teacher: PreTrainedTokenizerBase
    ) -> None:
        self._tokenizer = tokenizer
        self._answers = AnswerTokens.of(tokenizer)
        self._end = answer_ends(tokenizer)[0]
        self._ends = turn_end_ids(tokenizer)
        self._theirs = turn_end_ids(teacher) | set(teacher.all_special_ids)

    def __call__(self, example: Example, reply: Reply) -> tuple[int, ...]:
        """Return the answer's tokens, with the student's end token if it ended by itself.

        A text becomes the tokens that a reference answer with this text has.

        Raises:
            BadInputError: The student's chat template has no place for such a text.
        """
        if reply.tokens is not None:
            return self._with_our_end(reply.tokens, reply.finished)
        prompt = render_prompt(example, self._tokenizer)
        answered = replace(example, completion=reply.text, answer_fields={})
        tokens, _ = last_answer(answered, prompt, self._answers)
        return tokens if reply.finished else tokens[:-1]

    def _with_our_end(self, tokens: tuple[int, ...], finished: bool) -> tuple[int, ...]:
        if not finished or tokens[-1] in self._ends:
            return tokens
        return (*(tokens[:-1] if tokens[-1] in self._theirs else tokens), self._end)
