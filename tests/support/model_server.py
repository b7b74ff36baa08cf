"""A real HTTP server that computes as vLLM's does, from a loaded model."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from sweeper.config.remote_server import RemoteServer
from sweeper.serving.reach import Reached
from tests.support.chat_server import ChatServer, chat_server

_IGNORED = {"model", "ignore_eos", "skip_special_tokens", "return_token_ids", "max_tokens", "seed"}
_PLAIN: dict[str, Any] = {
    "temperature": 0.0,
    "top_p": 1.0,
    "top_k": -1,
    "min_p": 0.0,
    "repetition_penalty": 1.0,
}
"""Greedy decoding, the only one that it has."""


@contextmanager
def serving(model: Any, tokenizer: Any, **settings: Any) -> Iterator[tuple[ChatServer, Reached]]:
    """Serve a model as long as the block lasts; yield the server, and how it is reached."""
    lock = threading.Lock()

    def complete(body: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        with lock, torch.no_grad():
            choice = _judge(model, body) if "prompt_logprobs" in body else None
            choice = choice or _generate(model, tokenizer, body)
        return str(body["prompt"]), {"text": "", "finish_reason": "stop", **choice}

    with chat_server(answer=complete, **settings) as server:
        yield server, reached_at(server)


def reached_at(server: ChatServer) -> Reached:
    """Return how a server is reached."""
    address = RemoteServer(url=server.url, api="vllm", model="m", retry_for=5.0, timeout=20.0)
    return Reached(address, server.key, "Check it.")


def _judge(model: Any, body: dict[str, Any]) -> dict[str, Any]:
    tokens = body["prompt"]
    assert len(tokens) + body["max_tokens"] <= model.config.max_position_embeddings
    found = model(torch.tensor([tokens])).logits[0].float().log_softmax(-1)
    places: list[dict[str, Any] | None] = [None]
    for token, row in zip(tokens[1:], found, strict=False):
        rank = int((row >= row[token]).sum())
        places.append({str(token): {"logprob": row[token].item(), "rank": rank}})
        if body["prompt_logprobs"]:
            top = int(row.argmax())
            places[-1][str(top)] = {"logprob": row[top].item(), "rank": 1}
    return {"token_ids": [0], "prompt_logprobs": places}


def _generate(model: Any, tokenizer: Any, body: dict[str, Any]) -> dict[str, Any]:
    assert {name: body.get(name) for name in _PLAIN} == _PLAIN
    assert not body.keys() - _PLAIN.keys() - _IGNORED - {"prompt", "stop", "stop_token_ids"}
    assert body["ignore_eos"]
    tokens, answer = list(body["prompt"]), list[int]()
    assert len(tokens) + body["max_tokens"] <= model.config.max_position_embeddings
    while len(answer) < body["max_tokens"]:
        answer.append(int(model(torch.tensor([tokens + answer])).logits[0, -1].argmax()))
        text = tokenizer.decode(answer)
        if answer[-1] in body["stop_token_ids"] or any(stop in text for stop in body["stop"]):
            return {"token_ids": answer}
    return {"token_ids": answer, "finish_reason": "length"}
