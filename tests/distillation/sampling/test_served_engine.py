"""Rollouts through a server that gets the student's weights: which weights answered, and faults."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from sweeper.distillation.models.plain_weights import write_weights
from sweeper.distillation.sampling.rollouts import Rollout
from sweeper.distillation.sampling.served import ServedEngine, loaded
from sweeper.foundation.errors import BadInputError, DivergedError, NoAnswerError
from sweeper.records import Resources
from sweeper.records.seeds import served_rollout_seed
from sweeper.serving.client import OtherWeightsError
from tests.support.chat_server import Fault, close, reply
from tests.support.student_server import (
    END,
    KEY,
    VOCABULARY,
    StudentServer,
    mark,
    student_server,
    tokens_of,
)

PROMPTS = [[number, 7] for number in range(5)]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[StudentServer]:
    with student_server(tmp_path / "server") as running:
        yield running


@pytest.fixture
def student() -> Any:
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        num_key_value_heads=1,
    )
    return LlamaForCausalLM(config)


@pytest.fixture
def place(tmp_path: Path, server: StudentServer) -> Resources:
    job = tmp_path / "job"
    job.mkdir()
    return Resources(directory=str(job), device="cpu", threads=1, served_student=server.served)


def generate(place: Resources, student: Any, **changes: Any) -> list[Rollout]:
    engine = ServedEngine(place, None, waiting=lambda role: nullcontext())
    settings: dict[str, Any] = {
        "temperature": 1.0,
        "max_new_tokens": 8,
        "end_ids": (END,),
        "pad_id": 0,
        "seed": 3,
        "batch_size": 2,
    }
    return engine(student, PROMPTS, **(settings | changes))


def expected(student: Any, folder: Path) -> list[tuple[int, ...]]:
    """The answers of a model with the student's weights as they are now."""
    write_weights(student, folder, torch.float32)
    weights = mark(folder)
    return [
        (*tokens_of(weights, prompt, served_rollout_seed(3, number)), END)
        for number, prompt in enumerate(PROMPTS)
    ]


def left(place: Resources) -> list[Path]:
    return list(Path(place.directory).iterdir())


def test_rollouts_are_those_of_the_weights_as_they_are_now(
    server: StudentServer, place: Resources, student: Any, tmp_path: Path
) -> None:
    for name in ("before", "after"):
        rollouts = generate(place, student)
        assert [rollout.tokens for rollout in rollouts] == expected(student, tmp_path / name)
        with torch.no_grad():
            student.lm_head.weight += 1.0
    assert server.paths().count("/collective_rpc") == 2
    assert left(place) == []


def test_numbers_and_seed_decide_the_seeds_of_answers(
    server: StudentServer, place: Resources, student: Any
) -> None:
    generate(place, student, numbers=[4, 9, 2, 0, 7])
    sent = {body["prompt"][0]: body["seed"] for path, body in server.asked if "prompt" in body}
    assert sent == {at: served_rollout_seed(3, n) for at, n in enumerate([4, 9, 2, 0, 7])}


def test_nothing_is_sent_for_no_prompts(server: StudentServer, place: Resources) -> None:
    assert (
        ServedEngine(place, None, lambda role: nullcontext())(
            None, [], temperature=1, max_new_tokens=1, end_ids=(), pad_id=0, seed=1, batch_size=1
        )
        == []
    )
    assert server.asked == []


def restarts(server: StudentServer, path: str, times: int) -> None:
    """Start the server again at so many requests to a path for which it has the weights."""
    left = [times]

    def restart(handler: BaseHTTPRequestHandler) -> None:
        server.restart()
        close(handler)

    def fault(asked: str, body: dict[str, Any]) -> Fault | None:
        if asked != path or not left[0] or not server.named:
            return None
        left[0] -= 1
        return restart

    server.fault = fault


@pytest.mark.parametrize("path", ["/reset_prefix_cache", "/v1/completions"])
def test_after_a_restart_everything_is_sampled_from_the_right_weights(
    server: StudentServer, place: Resources, student: Any, tmp_path: Path, path: str
) -> None:
    restarts(server, path, 1)
    rollouts = generate(place, student)
    assert [rollout.tokens for rollout in rollouts] == expected(student, tmp_path / "weights")
    assert left(place) == []


@pytest.mark.parametrize("path", ["/reset_prefix_cache", "/v1/completions"])
def test_a_server_that_does_not_stay_up_is_given_up(
    server: StudentServer,
    place: Resources,
    student: Any,
    path: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sweeper.serving.client._FIRST", 0.01)
    restarts(server, path, 100)
    with pytest.raises(NoAnswerError, match="was started again 5 times"):
        generate(place, student)
    assert left(place) == []


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (reply(404, "no such path"), BadInputError),
        (reply(503, Retry_After="99999"), NoAnswerError),
        (reply(500, "no room", Retry_After="0"), BadInputError),
    ],
)
def test_errors_leave_no_weights_and_no_lock_behind(
    server: StudentServer,
    place: Resources,
    student: Any,
    tmp_path: Path,
    fault: Fault,
    error: type[Exception],
    capfd: pytest.CaptureFixture[str],
) -> None:
    server.fault = lambda path, body: fault if path == "/collective_rpc" else None
    with pytest.raises(error) as raised:
        generate(place, student)
    assert left(place) == []
    server.fault = lambda path, body: None
    assert generate(place, student)[0].tokens == expected(student, tmp_path / "weights")[0]
    said = capfd.readouterr()
    for text in (said.out, said.err, str(raised.value)):
        assert KEY not in text
        assert ".trainer.weights." not in text


def test_a_student_that_diverged_is_not_served(
    server: StudentServer, place: Resources, student: Any
) -> None:
    with torch.no_grad():
        student.lm_head.weight[3, 3] = float("nan")
    with pytest.raises(DivergedError, match="not finite"):
        generate(place, student)
    assert server.asked == []


def test_a_device_without_a_server_is_named(place: Resources, student: Any) -> None:
    bare = place.model_copy(update={"served_student": None})
    with pytest.raises(NoAnswerError, match="no vLLM server on cpu"):
        generate(bare, student)


def test_the_wait_for_the_server_is_counted_where_it_belongs(
    place: Resources, student: Any
) -> None:
    roles: list[str] = []

    def waiting(role: str) -> AbstractContextManager[None]:
        roles.append(role)
        return nullcontext()

    engine = ServedEngine(place, None, waiting)
    engine(
        student,
        PROMPTS,
        temperature=1.0,
        max_new_tokens=8,
        end_ids=(END,),
        pad_id=0,
        seed=3,
        batch_size=2,
    )
    assert roles == ["student"]


def test_what_is_scored_keeps_the_server_until_its_end(
    server: StudentServer, place: Resources, student: Any, tmp_path: Path
) -> None:
    with loaded(place, student, "bfloat16") as served:
        assert served.weights is not None
        write_weights(student, tmp_path / "weights", torch.bfloat16)
        assert server.weights == mark(tmp_path / "weights")
    assert left(place) == []
    restarts(server, "/reset_prefix_cache", 1)
    with pytest.raises(OtherWeightsError), loaded(place, student, None):
        raise AssertionError("it has other weights")
    assert left(place) == []
