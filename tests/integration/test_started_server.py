"""A study whose teacher sweeper serves: its answers are trained on, and no server is left.

The server is a real process that starts in no time and has no model; real jobs train and score.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sweeper.records.layout import ServerPaths
from tests.support.served_models import FakeServers, fake_servers
from tests.support.waiting import wait_until
from tests.support.whole_studies import WholeStudy

pytestmark = pytest.mark.slow
WriteStudy = Callable[..., Path]
ROWS = 24
KEYS: dict[str, Any] = {
    "teacher": {"model": "builtin/adder-teacher", "server": {"start": "vllm", "concurrency": 4}},
    "arms": {"seqkd": {}, "sft": {}},
    "trials": 1,
}


@pytest.fixture
def servers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeServers]:
    with fake_servers(tmp_path / "fake", monkeypatch) as servers:
        servers.paths = ServerPaths(tmp_path / "runs" / "tiny" / "servers" / "teacher")
        yield servers


def keys_left(study: WholeStudy, *streams: str) -> list[str]:
    """Where the key of a server stands, in any file or stream."""
    keys = [start["variables"]["VLLM_API_KEY"] for start in servers_of(study)]
    files = (path for path in study.directory.rglob("*") if path.is_file())
    texts = {str(path): path.read_bytes().decode(errors="replace") for path in files}
    texts.pop(str(study.directory / "fake" / "starts"))  # the server's own note
    texts |= dict(zip(("stdout", "stderr"), streams, strict=False))
    return [name for name, text in texts.items() if any(key in text for key in keys)]


def servers_of(study: WholeStudy) -> list[dict[str, Any]]:
    return FakeServers(study.directory / "fake").starts()


@pytest.mark.soak
def test_a_study_trains_on_the_answers_of_a_server_that_ends_before_the_trials(
    write_study: WriteStudy, servers: FakeServers
) -> None:
    study = WholeStudy(write_study(**KEYS, compute={"workers": 2}).parent)
    done = study.run("--set", "confirm.seeds=1")
    study.check(done)
    assert "the server answers at http://127.0.0.1:" in done.stdout
    [start] = servers.starts()
    # Each prompt once, by token ids and the server's own name.
    asked = servers.asked()
    assert len(asked) == len({tuple(body["prompt"]) for body in asked}) == ROWS
    assert {body["model"].partition("-")[0] for body in asked} == {"adder"}
    assert {body["temperature"] for body in asked} == {0.0}
    [stored] = (study.directory / study.cache / "teacher_outputs").glob("*/answers.jsonl")
    rows = [json.loads(line) for line in stored.read_text().splitlines()]
    given = {tuple(body["prompt"][:4]) for body in asked}
    assert len(rows) == ROWS
    assert {tuple(row["tokens"][:4]) for row in rows} == given
    # The answers are not the references, and so the arms are different trainings.
    results = study.results()
    assert results["finals/seqkd/0000"][4] != results["finals/sft/0000"][4]
    # Only the step that asks knew of the server, whose record has one start and its end.
    url = f"http://127.0.0.1:{start['port']}/v1"
    steps = [study.paths.preparation(step) for step in ("teacher", "student", "test_student")]
    places = [
        json.loads(files.spec.read_text())["place"]["served_teacher"]
        for files in (*steps, *study.trials().values(), *study.finals().values())
    ]
    assert places[0]["url"] == url
    assert set(map(type, places[1:])) == {type(None)}
    [recorded] = servers.record().starts
    assert (recorded.end, recorded.devices) == ("no longer needed", ("cpu",))
    assert keys_left(study, done.stdout, done.stderr) == []
    shown = json.loads(study.run("--json", command="report").stdout)
    assert len(shown["servers"][0]["starts"]) == 1
    params = [run.data.params for run in study.mlflow_runs()]
    assert any(found.get("teacher/server.start") == "vllm" for found in params)


@pytest.mark.soak
def test_a_cache_that_was_emptied_is_filled_again(
    write_study: WriteStudy, servers: FakeServers
) -> None:
    rate = {"learning_rate": {"type": "float", "low": 1e-4, "high": 1e-3}}
    study = WholeStudy(write_study(**{**KEYS, "arms": {"seqkd": {"search": rate}}}).parent)
    warm = ("--set", 'warm_start={"method": "seqkd", "max_steps": 2}')
    study.check(study.run(*warm))
    assert len(servers.starts()) == 1
    # The second time nothing is left to do, and so nothing is started.
    for _ in range(2):
        shutil.rmtree(study.directory / study.cache)
        study.check(study.run(*warm, "--set", "trials=2"))
        assert len(servers.starts()) == 2


@pytest.mark.soak
def test_a_probe_asks_what_the_study_then_finds(
    write_study: WriteStudy, servers: FakeServers
) -> None:
    study = WholeStudy(write_study(**KEYS).parent)
    cache = ("--cache-dir", str(study.cache))
    probed = study.run("--probe", *cache, command="check")
    assert probed.returncode == 0, probed.stdout + probed.stderr
    assert "vLLM, which sweeper starts, serves builtin/adder-teacher" in " ".join(
        probed.stdout.split()
    )
    assert len(servers.asked()) == ROWS
    assert servers.running() == []
    study.check(study.run())
    assert len(servers.asked()) == ROWS


@pytest.mark.soak
def test_ctrl_c_while_the_server_starts_leaves_no_process(
    write_study: WriteStudy, servers: FakeServers
) -> None:
    servers.tell("silent")
    study = WholeStudy(write_study(**KEYS).parent)
    done = study.run_until(lambda: bool(servers.starts()), signal.SIGINT, group=True)
    assert done.returncode == 130
    assert "Run the same command to resume" in done.stdout
    assert servers.running() == []


@pytest.mark.soak
def test_a_killed_coordinator_leaves_its_server_to_the_next_run(
    write_study: WriteStudy, servers: FakeServers
) -> None:
    study = WholeStudy(write_study(**KEYS).parent)
    process = study.start()
    begun = study.paths.preparation("teacher").spec
    wait_until(lambda: process.poll() is not None or begun.exists(), "a step that needs it")
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    study.check(study.run())
    assert len(servers.starts()) == 1
    assert servers.record().starts[0].adopted == 1


def test_without_vllm_check_and_run_say_what_to_install(
    write_study: WriteStudy, servers: FakeServers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PYTHONPATH")
    study = WholeStudy(write_study(**KEYS).parent)
    for command in ("check", "run"):
        done = study.run(command=command)
        assert done.returncode == 2
        shown = " ".join((done.stdout + done.stderr).split())
        assert "pip install 'sweeper[vllm]'" in shown
        assert "teacher.server.start" in shown


def test_a_study_whose_trials_ask_the_server_for_its_judgement(
    write_study: WriteStudy, servers: FakeServers
) -> None:
    top_k = {"teacher_signal": "top_k", "teacher_top_k": 8}
    gkd = {"settings": {**top_k, "lmbda": 1.0, "max_new_tokens": 8}}
    offline = {"settings": {**top_k, "teacher_top_k": 4}}
    keys = {**KEYS, "arms": {"gkd": gkd, "supervised_kd": offline}}
    study = WholeStudy(write_study(**keys, compute={"workers": 2}).parent)
    study.check(study.run())
    [start] = servers.starts()
    assert start["arguments"][-2:] == ["--max-logprobs", "8"]
    # The longest text, every reference once, and the rollouts of 4 steps.
    asked = servers.asked()
    assert len(asked) == 1 + ROWS + 4 * 4
    assert {body["prompt_logprobs"] for body in asked} == {8}
    costs = {name: found.cost.served for name, found in study.outcomes().items() if found}
    assert costs["gkd/0000"]["teacher"] > 0
    assert "teacher" not in costs["supervised_kd/0000"]
