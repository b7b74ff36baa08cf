"""A served model whose weights a job replaces by those of its own student, for as long as it asks.

Jobs on one device share one server. Each holds it while it needs it: new weights, then what is
asked of them. A server that was started again has its first weights, and says so.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Any

from filelock import FileLock

from sweeper.foundation.errors import BadInputError
from sweeper.records import ServedModel
from sweeper.serving.client import ModelClient, StoppedError
from sweeper.serving.reach import Reached, log_of, patient_server, read_key_file
from sweeper.serving.replies import NonsenseError

KEY = ("compute", "vllm")
"""Key of the study file that has the servers' keys."""
CONCURRENCY = 256
"""Requests that are under way at a time: as many as vLLM's own limit of sequences."""
MOST_AT_A_TIME = 1024
"""Most requests that a client has under way."""
_LOCK = "in_use"


@dataclass(frozen=True)
class Generated:
    """One sampled answer.

    Attributes:
        tokens: Token ids, the end token included if there is one.
        log_probs: Their log-probabilities in nats, at temperature 1.
        finished: True if an end token ended it.
    """

    tokens: tuple[int, ...]
    log_probs: tuple[float, ...]
    finished: bool


class StudentEngine:
    """The server on a job's device, as this job uses it.

    Args:
        served: Where it answers.
        tell: Called with a line for the log about each attempt that failed.
    """

    def __init__(self, served: ServedModel, tell: Callable[[str], None]) -> None:
        self._served = served
        self._tell = tell
        # Weights are no part of the API: they are given above it.
        root = served.model_copy(update={"url": served.url.removesuffix("/v1")})
        self._server = patient_server(root, CONCURRENCY)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep other jobs from giving the server other weights."""
        with FileLock(Path(self._served.key_file).with_name(_LOCK)):
            yield

    def load(self, folder: Path) -> str:
        """Give the server the weights in a folder of transformers' form.

        Returns:
            A name for them, new each time, which requests for them give.

        Raises:
            BadInputError: The server cannot take them.
            NoAnswerError: It does not answer.
            OtherWeightsError: It was started again meanwhile.
        """
        reload = {"method": "reload_weights", "kwargs": {"weights_path": str(folder)}}
        return self._changed({"collective_rpc": reload})

    def share(self, weights: Mapping[str, Any]) -> str:
        """Give the server the weights that lie in the memory of its own GPU, without a copy here.

        It is vLLM's weight transfer ``ipc``, asked once: whoever fails here can still ``load``.

        Args:
            weights: Its ``names``, ``dtype_names``, ``shapes`` and ``ipc_handles_pickled``; the
                memory has to stay as it is until this returns.

        Returns:
            A name for them, as ``load`` does.

        Raises:
            BadInputError, NoAnswerError: The server cannot take them in this way.
            OtherWeightsError: It was started again meanwhile.
        """
        return self._changed(
            {
                "init_weight_transfer_engine": {"init_info": {"packed": False}},
                "start_weight_update": {},
                "update_weights": {"update_info": dict(weights)},
                "finish_weight_update": {},
            },
            patient=False,
        )

    def _changed(self, requests: Mapping[str, Mapping[str, Any]], *, patient: bool = True) -> str:
        """Have requests change the weights; return a name for the new ones."""
        version = uuid.uuid4().hex
        with self._client(version, patient=patient) as client:
            # Named before they are there: a server that is started again forgets the name, and
            # does none of what follows.
            self._post(client, "sweeper/weights", {})
            for path, body in requests.items():
                self._post(client, path, body)
            self._post(client, "reset_prefix_cache", {}, _emptied)
        return version

    def sample(
        self,
        version: str,
        prompts: Sequence[Sequence[int]],
        *,
        temperature: float,
        max_new_tokens: int,
        end_ids: Sequence[int],
        seeds: Sequence[int],
        vocabulary: int,
        report: Callable[[int], None] = lambda done: None,
    ) -> list[Generated]:
        """Sample one answer to each prompt, of token ids, from the model's own distribution.

        Args:
            version: Weights that it must have, from ``load``.
            prompts: Prompts as token ids.
            temperature: Temperature of sampling; 0 takes the likeliest token.
            max_new_tokens: Longest answer.
            end_ids: Tokens that end an answer.
            seeds: Seed of each answer.
            vocabulary: Number of token ids that there are.
            report: Called with the number of complete answers.

        Raises:
            BadInputError: The server refuses a prompt.
            NoAnswerError: It does not answer.
            OtherWeightsError: It does not have these weights any more.
        """
        body = {
            "model": self._served.name,
            "temperature": temperature,
            "max_tokens": max_new_tokens,
            "stop_token_ids": sorted(end_ids),
            # The study's end tokens, and none that come with the model.
            "ignore_eos": True,
            "return_token_ids": True,
            "logprobs": 0,
            "skip_special_tokens": False,
            # Keys and values that other weights computed are never used for these.
            "cache_salt": version,
            **{"top_p": 1.0, "top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0},
        }
        ends = frozenset(end_ids)

        def read(reply: Any) -> Generated:
            return _read(reply, ends, max_new_tokens, vocabulary)

        with (
            self._client(version) as client,
            ThreadPoolExecutor(min(CONCURRENCY, max(1, len(prompts)))) as threads,
        ):
            asked = [
                threads.submit(
                    client.ask,
                    "v1/completions",
                    {**body, "prompt": list(prompt), "seed": seed},
                    read,
                    f"rollout {number}",
                )
                for number, (prompt, seed) in enumerate(zip(prompts, seeds, strict=True), 1)
            ]
            answers, failure = [], None
            for future in asked:
                try:
                    answers.append(future.result())
                    report(len(answers))
                except StoppedError:
                    pass
                except Exception as error:
                    failure = failure or error
                    client.stop()
        if failure is not None:
            raise failure
        return answers

    def _client(self, version: str, *, patient: bool = True) -> ModelClient:
        server = self._server
        if not patient:
            server = server.model_copy(update={"retry_for": 0.0})
        advice = "The server's log may say more."
        key = read_key_file(self._served)
        return ModelClient(server, key, self._tell, advice, KEY, version, log_of(self._served))

    def _post(
        self,
        client: ModelClient,
        path: str,
        body: Mapping[str, Any],
        read: Callable[[Any], None] = lambda reply: None,
    ) -> None:
        client.ask(path, body, read, f"POST /{path}", failed_for_good=_refused)


def _refused(message: str) -> BadInputError:
    """Return the error of a server that does not take a student's weights."""
    return BadInputError(f"expected a server that takes a student's weights. {message}", KEY)


def _emptied(reply: Any) -> None:
    """Read a reply of vLLM's ``/reset_prefix_cache``; older releases reply nothing.

    Raises:
        NonsenseError: A request of an earlier job still uses the cache.
    """
    if isinstance(reply, dict) and reply.get("success") is False:
        raise NonsenseError("its cache is in use")


def reach_student(served: ServedModel, concurrency: int) -> Reached:
    """Return the server that has a student's weights now, with its key.

    Args:
        served: Where it answers, and the name of the weights.
        concurrency: Requests at a time.

    Raises:
        NoAnswerError: It has ended.
    """
    advice = "Check max_length and options; the server's log may say more."
    server = patient_server(served, concurrency)
    return Reached(server, read_key_file(served), advice, KEY, served.weights, log_of(served))


def _read(reply: Any, ends: frozenset[int], longest: int, vocabulary: int) -> Generated:
    """Read a reply of vLLM's ``/completions``.

    Raises:
        NonsenseError: It is not one whole answer with token ids and log-probabilities.
    """
    try:
        [choice] = reply["choices"]
        tokens, log_probs = choice["token_ids"], choice["logprobs"]["token_logprobs"]
        reason = choice["finish_reason"]
    except (TypeError, KeyError, ValueError):
        raise NonsenseError("no choice with token_ids and logprobs") from None
    if not isinstance(tokens, list) or not isinstance(log_probs, list):
        raise NonsenseError("token_ids or logprobs that are no lists")
    if not 0 < len(tokens) == len(log_probs) <= longest:
        raise NonsenseError(f"{len(tokens)} tokens and {len(log_probs)} log-probabilities")
    if not all(type(token) is int and 0 <= token < vocabulary for token in tokens):
        raise NonsenseError(f"token_ids that are not below {vocabulary}")
    if not all(isinstance(value, float | int) and -inf < value <= 1e-3 for value in log_probs):
        raise NonsenseError("log-probabilities that are none")
    finished = tokens[-1] in ends
    if any(token in ends for token in tokens[:-1]) or finished != (reason == "stop"):
        raise NonsenseError(f"an answer that does not end where it should ({reason})")
    if not finished and len(tokens) != longest:
        raise NonsenseError(f"an answer that was broken off ({reason})")
    return Generated(tuple(tokens), tuple(map(float, log_probs)), finished)
