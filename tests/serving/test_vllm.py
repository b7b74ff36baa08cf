"""Served models with the real vLLM: it starts, answers, dies, hangs, and is found again."""

from __future__ import annotations

import json
import os
import signal
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sweeper.config.builtin import model_directory
from sweeper.config.models import ModelConfig
from sweeper.config.started_server import StartedServer
from sweeper.records.layout import ServerPaths
from sweeper.records.serving import ServedModel
from sweeper.serving.launch import find_vllm, server_python, vllm_launch
from sweeper.serving.model_server import ModelServer, Patience
from sweeper.serving.start_log import read_server_record
from tests.support.served_models import failure_of, first_port_taken, is_running, wait_until_up
from tests.support.waiting import wait_until
from tests.support.whole_studies import WholeStudy

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(900)]
WriteStudy = Callable[..., Path]
KEYS = {"start": "vllm", "max_length": 128, "options": {"max_num_seqs": 4}}
PATIENCE = 400.0
"""Seconds that a start may take on a machine with much to do."""
USUAL = Patience()
ONCE_HUNG = Patience(check_every=1.0, hung_after=20.0, back_off=(0.0, 0.0, 0.0))


def make_server(
    folder: Path, patience: Patience = USUAL, model: Path | None = None, **keys: Any
) -> ModelServer:
    model = model or model_directory("adder-teacher")
    server = StartedServer.model_validate({**KEYS, **keys})
    version, problem = find_vllm(server_python(server))
    assert problem == ""
    launch = vllm_launch(
        "teacher",
        ModelConfig(model=str(model)),
        server,
        source=str(model),
        content="hash",
        version=version,
        devices=("cpu",),
    )
    return ModelServer(launch, ServerPaths(folder / "teacher"), patience)


def ask(address: ServedModel, path: str, body: object, key: str | None = None) -> Any:
    key = Path(address.key_file).read_text() if key is None else key
    request = urllib.request.Request(
        address.url.removesuffix("/v1") + path,
        data=json.dumps(body).encode(),
        headers={"Authorization": f"Bearer {key}", "Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


def add(address: ServedModel) -> str:
    """Let the model add."""
    request = {"model": address.name, "prompt": "1234+5678?", "max_tokens": 40, "temperature": 0}
    text: str = ask(address, "/v1/completions", request)["choices"][0]["text"]
    return text


def processes(server: ModelServer) -> list[int]:
    """The processes of the server's group: the API server and its engine."""
    leader = json.loads(server.paths.processes.read_text())["server"]["pid"]
    return [
        int(entry.name)
        for entry in Path("/proc").glob("[0-9]*")
        if is_running(int(entry.name)) and os.getpgid(int(entry.name)) == leader
    ]


def command_line(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModelServer]:
    with make_server(tmp_path_factory.mktemp("server"), ONCE_HUNG) as server:
        wait_until_up(server, PATIENCE)
        yield server
        everything = processes(server)
    assert not any(map(is_running, everything))


def test_it_answers_with_the_key_and_to_nobody_else(server: ModelServer) -> None:
    address = server.address
    assert address is not None
    assert add(address).startswith("4+8+0=12;")
    request = {"model": address.name, "prompt": "1"}
    # vLLM itself asks for it at the first only.
    for path in ("/v1/completions", "/invocations", "/tokenize", "/metrics"):
        with pytest.raises(urllib.error.HTTPError, match="401"):
            ask(address, path, request, key="other")
    key = Path(address.key_file).read_text()
    assert not any(key.encode() in command_line(pid) for pid in processes(server))
    assert key not in server.paths.log.read_text()


@pytest.mark.parametrize("fault", ["the engine is killed", "the server hangs"])
def test_it_is_started_again_where_jobs_expect_it(server: ModelServer, fault: str) -> None:
    address = server.address
    before = processes(server)
    leader = json.loads(server.paths.processes.read_text())["server"]["pid"]
    assert len(before) > 1
    if fault == "the engine is killed":
        [engine] = [pid for pid in before if b"EngineCore" in command_line(pid)]
        os.kill(engine, signal.SIGKILL)
    else:
        os.kill(leader, signal.SIGSTOP)
    wait_until(lambda: server.state != "up", "the fault to be noticed")
    wait_until(lambda: server.state != "starting", "the restart", PATIENCE)
    server.check()
    assert not any(map(is_running, before))
    assert server.address == address
    assert address is not None
    assert add(address).startswith("4+8+0=12;")


def test_another_port_is_taken_if_the_first_is_not_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with first_port_taken(monkeypatch) as taken, make_server(tmp_path) as server:
        wait_until_up(server, PATIENCE)
        assert server.address is not None
        assert add(server.address)
        assert str(taken) not in server.address.url


def test_a_start_without_enough_memory_says_what_to_try(tmp_path: Path) -> None:
    with make_server(tmp_path, options={"kv_cache_memory_bytes": 2**50}) as server:
        message = failure_of(server, PATIENCE)
    assert "less for keys and values: options: {kv_cache_memory_bytes:" in message
    assert "memory" in message.splitlines()[0]


def test_a_model_that_vllm_cannot_serve_is_named(tmp_path: Path) -> None:
    odd = tmp_path / "odd"
    odd.mkdir()
    for path in model_directory("adder-teacher").iterdir():
        (odd / path.name).write_bytes(path.read_bytes())
    config = json.loads((odd / "config.json").read_text())
    config |= {"architectures": ["OddForCausalLM"], "model_type": "odd"}
    (odd / "config.json").write_text(json.dumps(config))
    with make_server(tmp_path, model=odd) as server:
        message = failure_of(server, PATIENCE)
    assert str(odd) in message
    assert "vLLM cannot serve this model" in message


def study_folder(write_study: WriteStudy) -> WholeStudy:
    teacher = {"model": "builtin/adder-teacher", "server": KEYS}
    arms: dict[str, Any] = {"seqkd": {}, "sft": {}}
    return WholeStudy(write_study(teacher=teacher, arms=arms, trials=1).parent, limit=800.0)


def test_a_killed_coordinator_leaves_its_server_to_the_next_run_which_ends_it(
    write_study: WriteStudy,
) -> None:
    study = study_folder(write_study)
    process = study.start()
    begun = study.paths.preparation("teacher").spec
    wait_until(
        lambda: process.poll() is not None or begun.exists(), "a step that needs it", PATIENCE
    )
    process.kill()
    process.communicate()
    study.check(study.run())
    record = read_server_record(study.paths.server("teacher").record)
    assert record is not None
    [start] = record.starts
    assert (start.adopted, start.end) == (1, "no longer needed")
    assert start.ready_after is not None


def answers(study: WholeStudy) -> list[tuple[str, list[int]]]:
    """Prompts and tokens of the teacher's answers that a study trained on."""
    [stored] = (study.directory / study.cache / "teacher_outputs").glob("*/answers.jsonl")
    rows = [json.loads(line) for line in stored.read_text().splitlines()]
    return [(row["prompt"], row["tokens"]) for row in rows]


def test_served_answers_are_those_of_the_loaded_teacher(
    write_study: WriteStudy, tmp_path: Path
) -> None:
    served = study_folder(write_study)
    loaded = served.copy(tmp_path / "loaded")
    served.check(served.run())
    loaded.check(loaded.run("--set", "teacher.server=null"))
    assert answers(served) == answers(loaded)


def test_ctrl_c_leaves_no_process(write_study: WriteStudy) -> None:
    study = study_folder(write_study)
    log = study.paths.server("teacher").log
    done = study.run_until(
        lambda: log.exists() and b"EngineCore" in log.read_bytes(), signal.SIGINT, group=True
    )
    assert done.returncode == 130, done.stdout + done.stderr
