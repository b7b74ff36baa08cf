"""Weights that a job gives to its device's server: every answer is from them, or there is none."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from sweeper.config.models import ModelConfig
from sweeper.foundation.errors import BadInputError, NoAnswerError
from sweeper.records import ServedModel
from sweeper.serving.client import OtherWeightsError
from sweeper.serving.reach import patient_server, reach
from sweeper.serving.student_engine import Generated, StudentEngine, reach_student
from tests.support.chat_server import Fault, close, half_a_body, hanging, reply
from tests.support.student_server import (
    END,
    KEY,
    SHARING,
    VOCABULARY,
    StudentServer,
    mark,
    student_server,
    tokens_of,
    write_marked,
)
from tests.support.waiting import wait_until

PROMPTS = [[number, 7] for number in range(12)]
LOAD = ["/collective_rpc", "/reset_prefix_cache"]
NOW = {"Retry_After": "0"}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[StudentServer]:
    with student_server(tmp_path / "server") as running:
        yield running


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_marked(tmp_path / "weights", "one")


def sample(
    engine: StudentEngine, version: str, prompts: Sequence[Sequence[int]] = PROMPTS
) -> list[Generated]:
    return engine.sample(
        version,
        prompts,
        temperature=1.0,
        max_new_tokens=8,
        end_ids=(END,),
        seeds=range(len(prompts)),
        vocabulary=VOCABULARY,
    )


def expected(folder: Path, prompts: Sequence[Sequence[int]] = PROMPTS) -> list[tuple[int, ...]]:
    weights = mark(folder)
    return [(*tokens_of(weights, list(prompt), seed), END) for seed, prompt in enumerate(prompts)]


def once(path: str, fault: Fault, after: int = 0) -> Callable[[str, dict[str, Any]], Fault | None]:
    """Fail at one request to a path, after so many that are answered."""
    left = [after]
    lock = threading.Lock()

    def choose(asked: str, body: dict[str, Any]) -> Fault | None:
        with lock:
            if asked == path:
                left[0] -= 1
            return fault if asked == path and left[0] == -1 else None

    return choose


def restarting(server: StudentServer) -> Fault:
    def restart(handler: BaseHTTPRequestHandler) -> None:
        server.restart()
        close(handler)

    return restart


def test_answers_are_those_of_the_weights_that_were_given(
    server: StudentServer, folder: Path
) -> None:
    engine = StudentEngine(server.served, print)
    answers = sample(engine, engine.load(folder))
    assert [answer.tokens for answer in answers] == expected(folder)
    assert all(answer.finished and answer.log_probs == (-0.5,) * 5 for answer in answers)
    assert server.paths() == [*LOAD, *["/v1/completions"] * len(PROMPTS)]
    body = server.asked[-1][1]
    assert (body["top_p"], body["top_k"], body["temperature"]) == (1.0, 0, 1.0)
    assert (body["stop_token_ids"], body["ignore_eos"]) == ([END], True)


def test_each_weights_have_a_name_and_a_cache_of_their_own(
    server: StudentServer, folder: Path
) -> None:
    engine = StudentEngine(server.served, print)
    versions = [engine.load(folder) for _ in range(2)]
    sample(engine, versions[1], PROMPTS[:1])
    assert versions[0] != versions[1]
    assert server.asked[-1][1]["cache_salt"] == versions[1]
    with pytest.raises(OtherWeightsError):
        sample(engine, versions[0])


@pytest.mark.parametrize("path", ["/sweeper/weights", *LOAD])
def test_a_server_that_is_started_again_while_it_takes_weights_has_none(
    server: StudentServer, folder: Path, path: str
) -> None:
    """Or its first weights would answer under the name of these."""
    server.fault = once(path, restarting(server))
    engine = StudentEngine(server.served, print)
    if path == "/sweeper/weights":
        assert sample(engine, engine.load(folder))[0].tokens == expected(folder)[0]
        return
    with pytest.raises(OtherWeightsError):
        engine.load(folder)


@pytest.mark.parametrize("after", [0, 5, 11])
def test_a_server_that_is_started_again_while_it_samples_has_other_weights(
    server: StudentServer, folder: Path, after: int
) -> None:
    engine = StudentEngine(server.served, print)
    version = engine.load(folder)
    server.fault = once("/v1/completions", restarting(server), after)
    with pytest.raises(OtherWeightsError):
        sample(engine, version)
    assert [answer.tokens for answer in sample(engine, engine.load(folder))] == expected(folder)


FAULTS = [
    (reply(429, "slow down", **NOW), "429 Too Many Requests: slow down"),
    (reply(500, "boom", **NOW), "500 Internal Server Error: boom"),
    (reply(503, "loading", **NOW), "503 Service Unavailable: loading"),
    (close, "no connection, or a broken one"),
    (half_a_body, "no connection, or a broken one"),
    (reply(200, b"<html>"), "nonsense: no JSON"),
]


@pytest.mark.parametrize("path", ["/sweeper/weights", *LOAD, "/v1/completions"])
@pytest.mark.parametrize(("fault", "told"), FAULTS)
def test_what_passes_is_asked_again(
    server: StudentServer, folder: Path, path: str, fault: Fault, told: str
) -> None:
    lines: list[str] = []
    server.fault = once(path, fault)
    engine = StudentEngine(server.served, lines.append)
    assert [answer.tokens for answer in sample(engine, engine.load(folder))] == expected(folder)
    [line] = lines
    assert told in line
    assert KEY not in line


@pytest.mark.parametrize("path", ["/collective_rpc", "/v1/completions"])
def test_a_server_that_hangs_is_asked_again(
    server: StudentServer, folder: Path, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sweeper.serving.reach._TIMEOUT", 1.0)
    release = threading.Event()
    server.fault = once(path, hanging(release))
    lines: list[str] = []
    engine = StudentEngine(server.served, lines.append)
    try:
        answers = sample(engine, engine.load(folder))
    finally:
        release.set()
    assert [answer.tokens for answer in answers] == expected(folder)
    assert "no whole answer in 1 s" in lines[0]


@pytest.mark.parametrize(
    ("path", "ask"),
    [
        ("/sweeper/weights", "load"),
        ("/collective_rpc", "load"),
        ("/v1/completions", "sample"),
    ],
)
def test_a_server_that_stays_away_is_given_up(
    server: StudentServer, folder: Path, path: str, ask: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sweeper.serving.reach._BETWEEN", 0.01)
    engine = StudentEngine(server.served, print)
    version = engine.load(folder) if ask == "sample" else ""
    server.fault = lambda asked, body: close if asked == path else None
    with pytest.raises(NoAnswerError, match="does not answer"):
        sample(engine, version) if ask == "sample" else engine.load(folder)


def test_more_time_for_starts_is_more_patience(server: StudentServer) -> None:
    assert patient_server(server.served, 1).retry_for < 600
    slow = server.served.model_copy(update={"start_timeout": 900.0})
    assert patient_server(slow, 1).retry_for > 3 * 900


def test_a_healthy_server_that_cannot_take_the_weights_stops_the_study_soon(
    server: StudentServer, folder: Path
) -> None:
    boom = reply(500, "size mismatch for lm_head", **NOW)
    server.fault = lambda path, body: boom if path == "/collective_rpc" else None
    lines: list[str] = []
    with pytest.raises(BadInputError) as raised:
        StudentEngine(server.served, lines.append).load(folder)
    assert raised.value.key == ("compute", "vllm")
    assert "failed 6 times in a row on POST /collective_rpc" in str(raised.value)
    assert "size mismatch for lm_head" in str(raised.value)
    assert str(Path(server.served.key_file).with_name("log.txt")) in str(raised.value)
    assert len(lines) == 5


def test_a_healthy_server_that_cannot_sample_stops_the_study_soon(
    server: StudentServer, folder: Path
) -> None:
    engine = StudentEngine(server.served, print)
    version = engine.load(folder)
    boom = reply(500, "boom", **NOW)
    server.fault = lambda path, body: boom if path == "/v1/completions" else None
    with pytest.raises(NoAnswerError, match="is healthy, but failed 6 times in a row on rollout"):
        sample(engine, version)


@pytest.mark.parametrize("role", ["teacher", "student"])
def test_whatever_is_asked_of_a_healthy_server_of_ours_that_fails_is_not_asked_for_long(
    server: StudentServer, role: str
) -> None:
    server.fault = lambda path, body: reply(500, "boom", **NOW)
    started = {"model": "m", "server": {"start": "vllm"}}
    served = server.served.model_copy(update={"weights": None})
    reached = (
        reach(ModelConfig.model_validate(started), served)
        if role == "teacher"
        else reach_student(served, 1)
    )
    with (
        reached.client(lambda line: None) as client,
        pytest.raises(NoAnswerError, match=r"failed 6 times in a row on text 3, .*: boom"),
    ):
        client.ask("completions", {"prompt": [1]}, lambda read: read, "text 3")


def test_a_server_whose_engine_has_ended_is_waited_for(server: StudentServer, folder: Path) -> None:
    """It will be started again; until then it fails, and is not healthy."""
    server.well = False
    failures = 0

    def fault(path: str, body: dict[str, Any]) -> Fault | None:
        nonlocal failures
        if path != "/collective_rpc" or server.well:
            return None
        failures += 1
        if failures < 9:
            return reply(500, "EngineDeadError", **NOW)
        server.restart()
        server.well = True
        return reply(429, **NOW)

    server.fault = fault
    with pytest.raises(OtherWeightsError):
        StudentEngine(server.served, lambda line: None).load(folder)
    assert failures == 9


def test_a_cache_in_use_is_emptied_later(server: StudentServer, folder: Path) -> None:
    """Requests of a job that was killed are still under way; their keys are of other weights."""
    lines: list[str] = []
    server.fault = once("/reset_prefix_cache", reply(200, b'{"success": false}'))
    StudentEngine(server.served, lines.append).load(folder)
    assert ["its cache is in use" in line for line in lines] == [True]
    server.fault = once("/reset_prefix_cache", reply(200, b""))  # as older releases answer
    StudentEngine(server.served, lines.append).load(folder)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"token_ids": [1] * 9}, "9 tokens and 5 log-probabilities"),
        (
            {"token_ids": [1] * 9, "logprobs": {"token_logprobs": [-1.0] * 9}},
            "9 tokens and 9 log-probabilities",
        ),
        ({"token_ids": []}, "0 tokens"),
        ({"token_ids": None}, "no lists"),
        ({"token_ids": [1, 2, 3, VOCABULARY, END]}, "not below 100"),
        ({"token_ids": [1, 2, 3, -1, END]}, "not below 100"),
        ({"token_ids": [1, 2, 3, 4.0, END]}, "not below 100"),
        ({"token_ids": [1, 2, 3, True, END]}, "not below 100"),
        ({"token_ids": [1, END, 2, 3, END]}, "does not end where it should"),
        ({"token_ids": [1, 2, 3, 4, 5]}, "does not end where it should"),
        ({"token_ids": [1, 2, 3, 4, 5], "finish_reason": "length"}, "broken off (length)"),
        ({"token_ids": [1, 2, 3, 4, 5], "finish_reason": "abort"}, "broken off (abort)"),
        ({"finish_reason": "length"}, "does not end where it should"),
        ({"logprobs": None}, "no choice with token_ids and logprobs"),
        ({"logprobs": {"token_logprobs": [-1.0] * 4}}, "5 tokens and 4"),
        *(
            ({"logprobs": {"token_logprobs": [-1.0] * 4 + [value]}}, "log-probabilities that are")
            for value in (None, "x", 0.5, float("nan"), float("-inf"))
        ),
    ],
)
def test_nonsense_is_no_answer(
    server: StudentServer, folder: Path, changes: dict[str, Any], told: str
) -> None:
    lines: list[str] = []
    wrong = [changes]
    server.choose = lambda body, choice: {**choice, **(wrong.pop() if wrong else {})}
    engine = StudentEngine(server.served, lines.append)
    [answer] = sample(engine, engine.load(folder), PROMPTS[:1])
    assert [answer.tokens] == expected(folder, PROMPTS[:1])
    [line] = lines
    assert "nonsense" in line and told in line


def test_an_answer_may_be_cut_at_the_limit(server: StudentServer, folder: Path) -> None:
    cut = {"token_ids": [3] * 8, "logprobs": {"token_logprobs": [-1] * 8}}
    server.choose = lambda body, choice: {**choice, **cut, "finish_reason": "length"}
    engine = StudentEngine(server.served, print)
    [answer] = sample(engine, engine.load(folder), PROMPTS[:1])
    assert (answer.tokens, answer.finished) == ((3,) * 8, False)


@pytest.mark.parametrize("status", [400, 401, 404])
def test_what_does_not_pass_stops_at_once(server: StudentServer, folder: Path, status: int) -> None:
    server.fault = once("/v1/completions", reply(status, f"no: {KEY}"))
    engine = StudentEngine(server.served, print)
    with pytest.raises(BadInputError) as raised:
        sample(engine, engine.load(folder), PROMPTS[:1])
    assert raised.value.key[:2] == ("compute", "vllm")
    assert KEY not in str(raised.value)


def use(served: ServedModel, folder: Path, times: int, started: Any = None) -> None:
    """A job that gives its weights and samples, again and again."""
    engine = StudentEngine(served, lambda line: None)
    for _ in range(times):
        with engine.held():
            version = engine.load(folder)
            if started is not None:
                started.set()
            answers = sample(engine, version)
        assert [answer.tokens for answer in answers] == expected(folder)


def test_two_jobs_never_mix_their_weights(server: StudentServer, tmp_path: Path) -> None:
    folders = [write_marked(tmp_path / name, name) for name in ("one", "two")]
    failures: list[BaseException] = []

    def job(folder: Path) -> None:
        try:
            use(server.served, folder, 3)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=job, args=(folder,)) for folder in folders]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    # Nothing of one job came between what belongs together of the other.
    whole = [*LOAD, *["/v1/completions"] * len(PROMPTS)]
    assert server.paths() == whole * 6


def test_a_job_that_is_killed_frees_the_server(server: StudentServer, tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    release, started = threading.Event(), context.Event()
    server.fault = lambda path, body: hanging(release) if path == "/v1/completions" else None
    one, two = (write_marked(tmp_path / name, name) for name in ("one", "two"))
    job = context.Process(target=use, args=(server.served, one, 1, started))
    job.start()
    try:
        wait_until(started.is_set, "the job to have given its weights")
        assert server.weights == mark(one)
        assert job.pid is not None
        os.kill(job.pid, signal.SIGKILL)
        job.join()
        server.fault = lambda path, body: None
        use(server.served, two, 1)
    finally:
        release.set()
    assert server.weights == mark(two)


def test_weights_in_a_gpu_s_memory_are_shared_under_a_name(server: StudentServer) -> None:
    engine = StudentEngine(server.served, print)
    version = engine.share({"mark": "shared"})
    assert server.paths() == [*SHARING, "/reset_prefix_cache"]
    [answer] = sample(engine, version, PROMPTS[:1])
    assert answer.tokens == (*tokens_of("shared", PROMPTS[0], 0), END)


@pytest.mark.parametrize(
    ("fault", "error"), [(reply(404), BadInputError), (reply(500), NoAnswerError)]
)
def test_weights_that_cannot_be_shared_are_given_at_once_by_files(
    server: StudentServer, folder: Path, fault: Fault, error: type[Exception]
) -> None:
    server.fault = lambda path, body: fault if path == "/update_weights" else None
    engine = StudentEngine(server.served, print)
    with pytest.raises(error):
        engine.share({"mark": "shared"})
    assert [answer.tokens for answer in sample(engine, engine.load(folder))] == expected(folder)


def test_a_server_that_has_ended_cannot_be_asked(server: StudentServer, folder: Path) -> None:
    Path(server.served.key_file).unlink()
    with pytest.raises(NoAnswerError, match="has ended"):
        StudentEngine(server.served, print).load(folder)
