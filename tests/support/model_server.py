"""A real HTTP server that computes as vLLM's does, from a loaded model."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from sweeper.config.remote_server import RemoteServer
from sweeper.records import ServedModel
from sweeper.serving.client import WEIGHTS_HEADER
from sweeper.serving.in_server.weights_known import PATH
from sweeper.serving.reach import Reached
from tests.support.chat_server import KEY, ChatServer, chat_server, close, reply, send

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
        with lock:
            return str(body["prompt"]), _choice(model, tokenizer, body)

    with chat_server(answer=complete, **settings) as server:
        yield server, reached_at(server)


class Students:
    """What a server has that students give their weights to."""

    def __init__(self, start: Any) -> None:
        self.start, self.model, self.version = start, start, ""
        self.given = 0

    def restart(self, handler: BaseHTTPRequestHandler) -> None:
        """End in the middle of a request; from then on it has its first weights."""
        self.model, self.version = self.start, ""
        close(handler)

    def takes(self, handler: BaseHTTPRequestHandler, body: dict[str, Any]) -> bool:
        """Take weights, and refuse requests for others than it has."""
        named = handler.headers.get(WEIGHTS_HEADER)
        if handler.path == PATH:
            self.version = named or ""
        elif handler.path == "/collective_rpc":
            folder = body["kwargs"]["weights_path"]
            self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
            self.given += 1
        elif handler.path != "/reset_prefix_cache":
            if named == self.version:
                return False
            reply(412)(handler)
            return True
        send(handler, 200, {})
        return True


@contextmanager
def serving_students(
    folder: Path, model: Any, tokenizer: Any
) -> Iterator[tuple[ChatServer, Students, ServedModel]]:
    """Serve ``model``, and then whatever weights are given; the key lies in ``folder``."""
    students, lock = Students(model), threading.Lock()
    folder.mkdir(parents=True, exist_ok=True)
    key_file = folder / "key"
    key_file.write_text(KEY)

    def complete(body: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        with lock:
            return str(body["prompt"]), _choice(students.model, tokenizer, body)

    with chat_server(answer=complete, also=students.takes, key=KEY) as server:
        address = ServedModel(url=server.url, name="m", key_file=str(key_file), start_timeout=1.0)
        yield server, students, address


def reached_at(server: ChatServer) -> Reached:
    """Return how a server is reached."""
    address = RemoteServer(url=server.url, api="vllm", model="m", retry_for=5.0, timeout=20.0)
    return Reached(address, server.key, "Check it.")


@torch.no_grad()
def _choice(model: Any, tokenizer: Any, body: dict[str, Any]) -> dict[str, Any]:
    judged = "prompt_logprobs" in body
    choice = _judge(model, body) if judged else _generate(model, tokenizer, body)
    return {"text": "", "finish_reason": "stop", **choice}


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
    stops = body.get("stop", ())
    tokens, answer = list(body["prompt"]), list[int]()
    assert len(tokens) + body["max_tokens"] <= model.config.max_position_embeddings
    unread, cache = tokens, None
    while len(answer) < body["max_tokens"]:
        read = model(torch.tensor([unread]), past_key_values=cache, use_cache=True)
        cache = read.past_key_values
        answer.append(int(read.logits[0, -1].argmax()))
        unread = answer[-1:]
        text = tokenizer.decode(answer)
        if answer[-1] in body["stop_token_ids"] or any(stop in text for stop in stops):
            return {"token_ids": answer}
    return {"token_ids": answer, "finish_reason": "length"}
