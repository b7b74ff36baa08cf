"""A served teacher's judgement of texts: the log-probabilities of its most likely next tokens.

Several texts are asked for at a time, each in one request. Retries belong to ``ModelClient``.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor

from sweeper.config.models import ModelConfig
from sweeper.config.remote_server import RemoteServer
from sweeper.distillation.data.examples import TokenSequence
from sweeper.records import ServedModel
from sweeper.serving.client import LARGEST, ModelClient, StoppedError
from sweeper.serving.reach import reach
from sweeper.serving.replies import TokenReport, read_prompt_log_probs

_BYTES_A_TOKEN = 256
"""Most bytes of one token in a reply, its text included."""


class Text(NamedTuple):
    """Tokens of a text, and the positions at which the teacher's prediction is asked for."""

    tokens: tuple[int, ...]
    positions: tuple[int, ...]
    """Positions of the predicted tokens, from 1."""

    @classmethod
    def of(cls, sequence: TokenSequence) -> Self:
        """Return a sequence of the data with the positions that are trained."""
        start, completion = len(sequence.prompt), sequence.completion or ()
        spans = (*sequence.earlier, (start, start + len(completion)))
        positions = tuple(index for first, end in spans for index in range(first, end))
        return cls((*sequence.prompt, *completion), positions)


@dataclass(frozen=True)
class Judgement:
    """What the teacher reports of one text, or of several, one after the other.

    Attributes:
        ids: Its most likely tokens (positions × k, int32), as ``TokenLogProbs`` has them.
        log_probs: Their log-probabilities (positions × k, float32).
        own: Log-probabilities of the tokens that stand there (positions, float32).
    """

    ids: Tensor
    log_probs: Tensor
    own: Tensor

    @classmethod
    def of(cls, report: TokenReport, k: int) -> Self:
        """Return a report as tensors."""
        shape = (len(report.own), k)
        return cls(
            torch.tensor(report.ids, dtype=torch.int32).reshape(shape),
            torch.tensor(report.log_probs, dtype=torch.float32).reshape(shape),
            torch.tensor(report.own, dtype=torch.float32),
        )

    @classmethod
    def joined(cls, parts: Iterable[Self]) -> Self:
        """Return several, at least one, one after the other."""
        rows = [(part.ids, part.log_probs, part.own) for part in parts]
        return cls(*map(torch.cat, zip(*rows, strict=True)))


class ServedJudge:
    """A served teacher that judges texts; use it as a context manager.

    After the first failure nothing is asked any more.

    Args:
        teacher: The teacher, with its server.
        served: Where the server answers, if sweeper started it.
        k: Tokens to report of each position; 0: only the one that stands there.
        vocabulary: Number of the student's token ids.
    """

    def __init__(
        self, teacher: ModelConfig, served: ServedModel | None, k: int, vocabulary: int
    ) -> None:
        assert teacher.server is not None
        self._teacher, self._served = teacher, served
        self._k, self._vocabulary = k, vocabulary
        self._concurrency = teacher.server.concurrency
        self._threads = ThreadPoolExecutor(self._concurrency)
        self._lock = threading.Lock()
        self._failed = Future[Judgement]()
        """Gets the first failure."""
        self._running = 0
        """Requests under way."""
        self._since = self._seconds = 0.0

    @cached_property
    def _reached(self) -> tuple[RemoteServer, ModelClient]:
        """The server, which nobody needs who has everything stored, and its client."""
        reached = reach(self._teacher, self._served)
        return reached.server, reached.client(lambda line: print(line, flush=True))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        # A server that hangs must not hold up what follows.
        if "_reached" in vars(self):
            self._reached[1].stop()
        self._threads.shutdown(wait=False, cancel_futures=True)
        if "_reached" in vars(self):
            self._reached[1].__exit__()

    def ask(self, text: Text) -> Future[Judgement]:
        """Ask for the judgement of a text, when its turn comes; pass the future to ``result``.

        Raises:
            BadInputError: The key of the server is not set.
            NoAnswerError: The server that sweeper starts is not up.
        """
        _ = self._reached
        return self._threads.submit(self._judge, text)

    def result(self, future: Future[Judgement]) -> Judgement:
        """Wait for a judgement, unless another request fails before.

        Raises:
            BadInputError: The server refuses a text.
            NoAnswerError: It does not answer.
        """
        done = wait((future, self._failed), return_when=FIRST_COMPLETED).done
        return (self._failed if self._failed in done else future).result()

    def take_seconds(self) -> float:
        """Return the seconds since the last call in which a request was under way."""
        with self._lock:
            self._count(0)
            seconds, self._seconds = self._seconds, 0.0
        return seconds

    def _count(self, change: int) -> None:
        """Count the requests under way, and the seconds with one; the lock is held."""
        now = time.perf_counter()
        if self._running:
            self._seconds += now - self._since
        self._since = now
        self._running += change

    def as_they_come(self, texts: Iterable[Text]) -> Iterator[tuple[Text, Judgement]]:
        """Yield texts with their judgement, as it arrives; after a failure, what still comes.

        Raises:
            BadInputError, NoAnswerError: The first failure.
        """
        left, running = iter(texts), dict[Future[Judgement], Text]()
        while True:
            while not self._failed.done() and len(running) < 2 * self._concurrency:
                if (text := next(left, None)) is None:
                    break
                running[self.ask(text)] = text
            if not running:
                break
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                text = running.pop(future)
                if future.exception() is None:
                    yield text, future.result()
        if self._failed.done():
            self._failed.result()

    def _judge(self, text: Text) -> Judgement:
        with self._lock:
            self._count(1)
        try:
            return self._judged(text)
        except StoppedError:
            raise
        except Exception as error:
            with self._lock:
                if not self._failed.done():
                    self._failed.set_exception(error)
            self._reached[1].stop()
            raise
        finally:
            with self._lock:
                self._count(-1)

    def _judged(self, text: Text) -> Judgement:
        tokens, positions = text
        if not positions:
            return Judgement.of(TokenReport([], [], []), self._k)
        server, client = self._reached
        read = partial(
            read_prompt_log_probs,
            tokens=tokens,
            positions=positions,
            k=self._k,
            vocabulary=self._vocabulary,
        )
        body = {**_extra(server), "model": server.model, "prompt": list(tokens)}
        # A token has to be sampled; it is not read.
        body |= {"max_tokens": 1, "temperature": 0.0, "prompt_logprobs": self._k}
        largest = LARGEST + len(tokens) * (self._k + 1) * _BYTES_A_TOKEN
        what = f"the judgement of {len(tokens)} tokens"
        report = client.ask("completions", body, read, what, largest)
        return Judgement.of(report, self._k)


def _extra(server: RemoteServer) -> Mapping[str, Any]:
    return {name: value for name, value in server.extra_body.items() if value is not None}
