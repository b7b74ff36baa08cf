"""What a served teacher cannot judge is found before there is a trial."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sweeper.config.judgement import Judged, JudgedArm
from sweeper.config.lengths import LengthLimits
from sweeper.config.loading import LoadedStudy, load_study
from sweeper.execution.worker.judgement_checks import Longest, longest_judged
from sweeper.records import Outcome
from tests.support.chat_server import ChatServer, chat_server, reply
from tests.support.prompt_log_probs import log_softmax, report
from tests.support.trial_jobs import prepare

Write = Callable[..., Path]
TOP_K = {"teacher_signal": "top_k", "teacher_top_k": 4}
ARMS: dict[str, Any] = {
    "gkd": {"settings": {**TOP_K, "max_new_tokens": 8, "lmbda": 0.5}},
    "sft": {},
}
EVEN = log_softmax([0.0] * 20)


@pytest.fixture
def server() -> Iterator[ChatServer]:
    with chat_server(judge=lambda tokens, k: report(tokens, [EVEN] * (len(tokens) - 1), k)) as one:
        yield one


def study_of(
    write_study: Write, server: ChatServer, arms: dict[str, Any] = ARMS, **changes: Any
) -> LoadedStudy:
    teacher = server.section("builtin/adder-teacher", api="vllm", retry_for=1)
    return load_study(write_study(teacher=teacher, arms=arms, **changes))


def reason(outcome: Outcome) -> tuple[str, str]:
    assert outcome.failure is not None and outcome.failure.kind == "bad_input"
    return ".".join(outcome.failure.key), outcome.failure.message


LIMITS = LengthLimits(
    longest=50, longest_key=("m",), sampled=30, sampled_key=("arms", "gkd", "max_new_tokens")
)
OFFLINE = LengthLimits(longest=40, longest_key=("training", "max_length"))


@pytest.mark.parametrize(
    ("arms", "expected"),
    [
        # Prompts that leave no room for an answer are dropped, and answers are cut.
        ([JudgedArm(limits=OFFLINE, sources=(False,))], Longest(32, OFFLINE.longest_key)),
        ([JudgedArm(limits=OFFLINE, sources=(False, True))], Longest(40, OFFLINE.longest_key)),
        ([JudgedArm(limits=LIMITS)], Longest(75, LIMITS.sampled_key)),
        (
            [JudgedArm(limits=OFFLINE, sources=(True,)), JudgedArm(limits=LIMITS)],
            Longest(75, LIMITS.sampled_key),
        ),
    ],
)
def test_the_longest_sequence(arms: list[JudgedArm], expected: Longest) -> None:
    def lengths(longest: int, own: bool) -> list[tuple[int, int]]:
        return [(20, 90), (45, 0)] if own else [(20, 12), (45, 3), (60, 1)]

    judged = Judged(top_k=1, top_k_key=(), arms=tuple(arms))
    assert longest_judged(judged, lengths) == expected
    assert longest_judged(judged, lambda longest, own: None).tokens in (0, 30)


def test_the_most_that_trials_may_ask_for_is_asked_first(
    write_study: Write, server: ChatServer
) -> None:
    outcome, _ = prepare(study_of(write_study, server), "teacher")
    assert outcome.state == "completed", outcome.failure
    first, *stored = server.asked
    assert len(stored) == 24
    assert {body["prompt_logprobs"] for body in server.asked} == {4}
    assert len(first["prompt"]) >= max(len(body["prompt"]) for body in stored)
    again, _ = prepare(study_of(write_study, server), "teacher")
    assert again.state == "completed"
    assert len(server.asked) == 26


def test_the_teachers_own_answers_are_judged_too(write_study: Write, server: ChatServer) -> None:
    server.complete = lambda tokens: (str(tokens), {"text": "", "token_ids": [*tokens[:3], 1]})
    settings = {"teacher_signal": "top_k", "teacher_top_k": 2, "seq_kd": True}
    study = study_of(write_study, server, {"supervised_kd": {"settings": settings}})
    outcome, _ = prepare(study, "teacher")
    assert outcome.state == "completed", outcome.failure
    judged = [body["prompt"] for body in server.asked if "prompt_logprobs" in body]
    answered = [body["prompt"] for body in server.asked if "prompt_logprobs" not in body]
    assert len(judged) == 1 + len(answered)
    # An answer's end is the student's own token.
    assert {tuple(text[: len(one)]) for one, text in zip(answered, judged[1:], strict=True)}
    assert {len(text) for text in judged[1:]} == {len(answered[0]) + 4}


@pytest.mark.parametrize("signal", ["sampled", "top_k"])
def test_of_rollouts_nothing_is_stored(write_study: Write, server: ChatServer, signal: str) -> None:
    settings = {"teacher_signal": signal, "lmbda": 1.0, "max_new_tokens": 8}
    study = study_of(write_study, server, {"gkd": {"settings": settings}})
    outcome, _ = prepare(study, "teacher")
    assert outcome.state == "completed", outcome.failure
    [body] = server.asked
    assert body["prompt_logprobs"] == (0 if signal == "sampled" else 16)


def test_what_exceeds_the_bound_is_told(write_study: Write, server: ChatServer) -> None:
    study = study_of(write_study, server, compute={"teacher_states_gib": 1e-6})
    outcome, _ = prepare(study, "teacher")
    assert any("more than compute.teacher_states_gib" in note for note in outcome.notes)
    assert len(server.asked) == 1


@pytest.mark.parametrize(
    ("said", "key", "advice"),
    [
        (
            "Requested prompt logprobs of 4, which is greater than max allowed: 2",
            "arms.gkd.settings.teacher_top_k",
            "start it again with --max-logprobs 4, or write a smaller teacher_top_k",
        ),
        (
            "This model's maximum context length is 64 tokens. However, you requested 1 output",
            "training.max_length",
            "start it again with --max-model-len",
        ),
        ("This model is asleep", "teacher.server", "Check url, model and extra_body."),
    ],
)
def test_what_the_server_refuses(
    write_study: Write, server: ChatServer, said: str, key: str, advice: str
) -> None:
    server.always = reply(400, said)
    outcome, _ = prepare(study_of(write_study, server), "teacher")
    found, message = reason(outcome)
    assert found == key
    assert advice in message and said in message
    assert len(server.asked) == 1


def test_a_server_that_sweeper_starts_has_to_read_all(write_study: Write) -> None:
    def data(max_length: int, **settings: Any) -> Outcome:
        teacher = {
            "model": "builtin/adder-teacher",
            "server": {"start": "vllm", "max_length": max_length},
        }
        gkd = {**TOP_K, "lmbda": 0.5, "max_new_tokens": 8, **settings}
        file = write_study(teacher=teacher, arms={"gkd": {"settings": gkd}, "sft": {}})
        return prepare(load_study(file), "data")[0]

    key, message = reason(data(60, max_new_tokens=70))
    assert key == "teacher.server.max_length"
    assert "(arms.gkd.settings.max_new_tokens) and the one that a server always adds" in message
    needed = int(message.split("expected at least ")[1].split(",")[0])
    assert needed > 71
    assert reason(data(needed - 1, max_new_tokens=70))[0] == key
    assert data(needed, max_new_tokens=70).state == "completed"
