"""Studies whose served teacher judges what is trained on, over a real socket with faults."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sweeper.records import Outcome
from sweeper.records.layout import JobPaths
from sweeper.records.outcome_files import read_outcome
from tests.support.chat_server import KEY, ChatServer, chat_server, reply
from tests.support.judging import Judge
from tests.support.whole_studies import WholeStudy

pytestmark = pytest.mark.slow

ROWS = 24
TOP_K = {"teacher_signal": "top_k", "teacher_top_k": 4}
ARMS: dict[str, Any] = {
    "gkd": {"settings": {**TOP_K, "max_new_tokens": 8, "lmbda": 0.5}},
    "supervised_kd": {"settings": {**TOP_K, "teacher_top_k": 2}},
}
NOW = {"Retry_After": "0"}
Write = Callable[..., Path]


@pytest.fixture(scope="module")
def judge() -> Judge:
    return Judge()


@pytest.fixture
def server(judge: Judge, monkeypatch: pytest.MonkeyPatch) -> Iterator[ChatServer]:
    monkeypatch.setenv("TEACHER_KEY", KEY)
    with chat_server(key=KEY, judge=judge) as running:
        yield running


def make_study(write_study: Write, server: ChatServer, **changes: Any) -> WholeStudy:
    keys = {"api": "vllm", "api_key_env": "TEACHER_KEY", "concurrency": 4}
    teacher = server.section("builtin/adder-teacher", **keys)
    values = {"teacher": teacher, "arms": ARMS, "trials": 1, **changes}
    return WholeStudy(write_study(**values).parent)


def outcome(files: JobPaths) -> Outcome:
    found = read_outcome(files)
    assert found is not None
    return found


@pytest.mark.soak
def test_a_study_with_the_judgement_of_a_teacher_elsewhere(
    write_study: Write, server: ChatServer
) -> None:
    study = make_study(write_study, server)
    server.faults = [reply(429, "slow", **NOW), None, reply(500, KEY, **NOW)]
    done = study.run("--set", "confirm.seeds=1")
    study.check(done)
    told = done.stdout + done.stderr
    assert KEY not in told
    # The longest text once, and every reference; only rollouts are asked for in trials.
    prepared = outcome(study.paths.preparation("teacher"))
    assert prepared.state == "completed"
    gkd, offline = (outcome(study.trial(arm, 0)) for arm in ("gkd", "supervised_kd"))
    assert gkd.scores is not None and offline.scores is not None
    assert gkd.cost.served["teacher"] > 0
    assert gkd.cost.seconds["teacher"] >= gkd.cost.served["teacher"]
    assert offline.cost.served == {}
    assert gkd.rollouts is not None
    assert gkd.rollouts.teacher_entropy is None
    assert gkd.rollouts.teacher_logprob is not None and gkd.rollouts.student_entropy is not None
    asked = len(server.asked)
    rollouts = gkd.rollouts.on_policy_share * 4 * 4
    assert asked >= ROWS + 1 + rollouts
    files = [path for path in study.directory.rglob("*") if path.is_file()]
    assert [path for path in files if KEY.encode() in path.read_bytes()] == []
    # Another study finds the judgement of the references.
    offline_only = json.dumps({"supervised_kd": ARMS["supervised_kd"]})
    more = study.run("--set", "study=more", "--set", f"arms={offline_only}")
    assert more.returncode == 0, more.stderr
    assert len(server.asked) == asked + 1


@pytest.mark.soak
def test_a_server_that_goes_away_in_a_trial_spends_none(
    write_study: Write, server: ChatServer
) -> None:
    study = make_study(
        write_study,
        server,
        arms={"gkd": {"settings": {**TOP_K, "max_new_tokens": 8, "lmbda": 1.0}}},
        training={
            "max_steps": 6,
            "per_device_train_batch_size": 4,
            "max_length": 96,
            "checkpoint_every": 1,
        },
    )
    # The longest text, and the rollouts of two steps.
    server.faults = [None] * 9
    server.always = reply(503, "down", **NOW)
    gone = study.run("--set", "teacher.server.retry_for=0.2")
    assert gone.returncode == 1
    assert "does not answer: the judgement of" in " ".join(gone.stderr.split())
    assert "Traceback" not in gone.stdout + gone.stderr
    failed = outcome(study.trial("gkd", 0))
    assert failed.failure is not None and failed.failure.kind == "server"
    assert sum(server.answered.values()) == 9
    server.always = None
    study.check(study.run())
    # Steps before the checkpoint are not done again.
    assert sum(server.answered.values()) == 9 + 4 * 4
    whole = study.copy(study.directory / "whole")
    whole.check(whole.run())
    assert study.results()["gkd/0000"] == whole.results()["gkd/0000"]


@pytest.mark.soak
def test_two_processes_of_a_trial_ask_for_their_own_rollouts(
    write_study: Write, server: ChatServer
) -> None:
    gkd = {"gkd": {"settings": {**TOP_K, "max_new_tokens": 8, "lmbda": 1.0}}}
    compute = {"device": "cpu", "devices_per_trial": 2, "threads_per_worker": 2}
    study = make_study(write_study, server, arms=gkd, compute=compute)
    study.check(study.run())
    # The longest text, and the rollouts of 4 steps of both.
    assert len(server.asked) == 1 + 4 * 4 * 2
    found = outcome(study.trial("gkd", 0))
    assert found.rollouts is not None and found.rollouts.teacher_logprob is not None
