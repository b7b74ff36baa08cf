"""The judgement of texts over a real socket: in order, at once, and failing as one."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from sweeper.config.models import ModelConfig
from sweeper.distillation.data.examples import TokenSequence
from sweeper.distillation.teacher.served_judge import ServedJudge, Text
from sweeper.foundation.errors import BadInputError, NoAnswerError
from tests.support.chat_server import ChatServer, chat_server, hanging, reply
from tests.support.prompt_log_probs import log_softmax, report

VOCABULARY = 20


def judge(tokens: list[int], k: int) -> list[Any]:
    rows = [
        log_softmax([float((token * one) % 7) for one in range(VOCABULARY)]) for token in tokens
    ]
    return report(tokens, rows[:-1], k)


@pytest.fixture
def server() -> Iterator[ChatServer]:
    with chat_server(judge=judge) as running:
        yield running


def judge_at(server: ChatServer, k: int = 3, **keys: Any) -> ServedJudge:
    values = server.section("m", api="vllm", **keys)
    return ServedJudge(ModelConfig.model_validate(values), None, k, VOCABULARY)


TEXTS = [Text((1, 2, 3 + row, 4), (2, 3)) for row in range(8)]


def test_positions_of_what_is_trained() -> None:
    assert Text.of(TokenSequence((7, 8, 9), (1, 2))) == ((7, 8, 9, 1, 2), (3, 4))
    assert Text.of(TokenSequence((7, 8, 9), (1,), ((1, 2),))) == ((7, 8, 9, 1), (1, 3))
    assert Text.of(TokenSequence((7, 8), None)) == ((7, 8), ())


def test_several_texts_are_asked_for_at_once(server: ChatServer) -> None:
    release = threading.Event()
    barrier = threading.Barrier(3, release.set)

    def together(tokens: list[int], k: int) -> list[Any]:
        if not release.is_set():
            barrier.wait(60)
        return judge(tokens, k)

    server.judge = together
    with judge_at(server, concurrency=3) as asked:
        found = [asked.result(one) for one in [asked.ask(text) for text in TEXTS]]
    for text, judgement in zip(TEXTS, found, strict=True):
        first, second = text.tokens[1:3]
        for row, token in enumerate((first, second)):
            expected = log_softmax([float((token * one) % 7) for one in range(VOCABULARY)])
            assert judgement.log_probs[row].tolist() == pytest.approx(sorted(expected)[:-4:-1])
            assert judgement.own[row] == pytest.approx(expected[text.tokens[row + 2]])


def test_what_is_asked(server: ChatServer) -> None:
    extra = {"priority": 2, "temperature": None, "max_tokens": None}
    with judge_at(server, k=0, extra_body=extra) as asked:
        found = asked.result(asked.ask(TEXTS[0]))
        empty = asked.result(asked.ask(Text((1, 2), ())))
    assert found.ids.shape == (2, 0) and found.own.shape == (2,)
    assert empty.ids.shape == (0, 0)
    assert server.asked == [
        {
            "model": "m",
            "prompt": [1, 2, 3, 4],
            "max_tokens": 1,
            "temperature": 0.0,
            "prompt_logprobs": 0,
            "priority": 2,
        }
    ]


def test_one_refusal_ends_all_at_once_though_another_request_hangs(server: ChatServer) -> None:
    release = threading.Event()
    server.faults = [hanging(release), reply(400, "no such model")]
    with judge_at(server, concurrency=2) as asked:
        futures = [asked.ask(text) for text in TEXTS]
        with pytest.raises(BadInputError, match="no such model"):
            for future in futures:
                asked.result(future)
    assert len(server.asked) == 2
    release.set()


def test_what_still_comes_after_a_failure_is_given(server: ChatServer) -> None:
    server.faults = [None, None, reply(503, "down", Retry_After="9")]
    came = []
    with judge_at(server, concurrency=2, retry_for=1) as asked, pytest.raises(NoAnswerError):
        for text, _ in asked.as_they_come(TEXTS):
            came.append(text)
    assert len(came) == sum(server.answered.values()) >= 2


def test_long_replies_are_read(server: ChatServer) -> None:
    def padded(tokens: list[int], k: int) -> list[Any]:
        reported = judge(tokens, k)
        for entry in reported[1:]:
            for about in entry.values():
                about["decoded_token"] = "x" * 200
        return reported

    server.judge = padded
    text = Text(tuple(range(15)) * 40, (599,))
    with judge_at(server, k=VOCABULARY) as asked:
        assert asked.result(asked.ask(text)).ids.shape == (1, VOCABULARY)
