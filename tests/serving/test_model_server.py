"""A served model's process from its start to its end, with a real process and a real socket."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import textwrap
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from sweeper.foundation.errors import ServerError
from sweeper.serving.model_server import ModelServer
from tests.support.served_models import (
    QUICK,
    FakeServers,
    failure_of,
    fake_servers,
    first_port_taken,
    is_running,
    wait_until_up,
)
from tests.support.tiny_studies import ROOT
from tests.support.waiting import wait_until


@pytest.fixture
def servers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeServers]:
    with fake_servers(tmp_path, monkeypatch) as servers:
        yield servers


def kill(pid: int, number: signal.Signals = signal.SIGKILL) -> None:
    os.kill(pid, number)
    wait_until(lambda: not is_running(pid), "the process to end")


def wait_for_starts(servers: FakeServers, count: int) -> None:
    wait_until(lambda: len(servers.starts()) >= count, f"start {count}")


# Start and end


def test_jobs_reach_the_server_with_its_name_and_its_key(servers: FakeServers) -> None:
    with servers.server() as server:
        wait_until_up(server)
        address = server.address
        assert address is not None
        key = Path(address.key_file).read_text()
        request = urllib.request.Request(
            f"{address.url}/models", headers={"Authorization": f"Bearer {key}"}
        )
        with urllib.request.urlopen(request) as answer:
            assert json.load(answer)["data"] == [{"id": address.name}]


def test_nothing_is_left_of_it_but_its_log_and_its_record(servers: FakeServers) -> None:
    with servers.server() as server:
        wait_until_up(server)
        assert len(servers.running()) == 2
    assert servers.running() == []
    assert {path.name for path in servers.paths.directory.iterdir()} >= {"log.txt", "record.json"}
    assert not servers.paths.key.exists()
    assert not servers.paths.launch.exists()
    [start] = servers.record().starts
    assert start.end == "no longer needed"
    assert start.ready_after is not None
    assert start.last_seen - start.started >= start.ready_after


def test_it_is_ended_while_it_starts(servers: FakeServers) -> None:
    servers.tell("silent")
    with servers.server() as server:
        server.start()
        wait_for_starts(servers, 1)
    assert servers.running() == []
    assert servers.record().starts[0].ready_after is None


def test_a_second_start_changes_nothing(servers: FakeServers) -> None:
    with servers.server() as server:
        wait_until_up(server)
        wait_until_up(server)
        assert server.messages()[-1].endswith("s")
    assert len(servers.starts()) == 1


def test_a_server_that_was_never_started_leaves_nothing(servers: FakeServers) -> None:
    with servers.server():
        pass
    assert not servers.paths.directory.exists()


def test_only_its_owner_can_read_what_lets_others_use_it(servers: FakeServers) -> None:
    with servers.server() as server:
        wait_until_up(server)
        wait_until(servers.paths.processes.exists, "the keeper's file")
        for path in (servers.paths.key, servers.paths.launch, servers.paths.processes):
            assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_the_key_is_on_no_command_line_and_in_no_file_but_its_own(servers: FakeServers) -> None:
    with servers.server() as server:
        wait_until_up(server)
        key = servers.paths.key.read_text()
        lines = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline")]
        assert not any(key.encode() in line for line in lines)
    texts = [path.read_text() for path in servers.paths.directory.iterdir()]
    # The server printed it with each request.
    assert "Bearer ***" in servers.paths.log.read_text()
    assert not any(key in text for text in texts)


def test_each_server_has_a_key_of_its_own(servers: FakeServers) -> None:
    keys = set()
    for _ in range(2):
        with servers.server() as server:
            wait_until_up(server)
            keys.add(servers.paths.key.read_text())
    assert len(keys) == 2


# What keeps it from starting


@pytest.mark.parametrize(
    ("last_words", "advice"),
    [
        ("ModuleNotFoundError: No module named 'vllm'", "pip install 'sweeper[vllm]'"),
        (
            "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB",
            "smaller teacher.server.max_length",
        ),
        (
            "ValueError: Free memory on device cuda:0 (3.1/80.0 GiB) on startup is less than"
            " desired GPU memory utilization (0.9, 72.0 GiB).",
            "another share of the GPU (gpu_memory)",
        ),
        (
            "ValueError: To serve at least one request with the models's max seq len (131072),"
            " (16.00 GiB KV cache is needed, which is larger than the available KV cache memory"
            " (3.00 GiB).",
            "Write a smaller teacher.server.max_length",
        ),
        (
            "ValueError: Model architectures ['OddForCausalLM'] are not supported for now.",
            "vLLM cannot serve this model",
        ),
        ("SomethingElse", "The end of its log:\n  loading\n  SomethingElse"),
    ],
)
def test_a_failed_start_says_what_to_try_and_quotes_the_log(
    servers: FakeServers, last_words: str, advice: str
) -> None:
    servers.tell("last_words", f"INFO 01-01 00:00:00 [core.py:1] loading\n{last_words}")
    with servers.server() as server:
        message = failure_of(server)
    assert advice in message
    assert last_words in message
    assert str(servers.paths.log) in message
    assert len(servers.starts()) == 1
    assert servers.record().starts[0].end == "never answered"


def test_the_error_that_caused_the_others_is_named_first(servers: FakeServers) -> None:
    servers.tell(
        "last_words",
        "(Worker pid=1) ERROR 01-01 00:00:00 [core.py:1] ValueError: Available memory on node 0"
        " (15.44/21.21 GiB) on kv cache allocation is less than requested memory for kv\n"
        "  File code.py, line 3, in load\n"
        "RuntimeError: Worker failed with error 'Available memory', please check the stack trace\n"
        "(APIServer pid=2) RuntimeError: Engine core initialization failed. See root cause above.",
    )
    with servers.server() as server:
        message = failure_of(server)
    assert "ended (1): ValueError: Available memory on node 0" in message.splitlines()[0]
    assert "Give it less to hold" in message
    assert "code.py" not in message


def test_an_interpreter_that_cannot_be_run_is_named(servers: FakeServers) -> None:
    with servers.server(python="/nowhere/python") as server:
        assert "/nowhere/python" in failure_of(server)


def test_a_server_that_does_not_answer_in_time_is_ended(servers: FakeServers) -> None:
    servers.tell("silent")
    with servers.server(start_timeout=0.5) as server:
        message = failure_of(server)
        assert servers.running() == []
    assert "teacher.server.start_timeout: 0.5 s" in message


def test_another_port_is_taken_if_the_first_is_not_free(
    servers: FakeServers, monkeypatch: pytest.MonkeyPatch
) -> None:
    with first_port_taken(monkeypatch) as taken, servers.server() as server:
        wait_until_up(server)
        assert servers.starts()[-1]["port"] != taken
    assert servers.starts()[0]["port"] == taken


# What happens while it runs


@pytest.mark.parametrize("which", ["server", "keeper"])
def test_a_server_that_dies_is_started_again_where_jobs_expect_it(
    servers: FakeServers, which: str
) -> None:
    with servers.server() as server:
        wait_until_up(server)
        address, key = server.address, servers.paths.key.read_text()
        wait_until(servers.paths.processes.exists, "the keeper's file")
        kill(json.loads(servers.paths.processes.read_text())[which]["pid"])
        wait_for_starts(servers, 2)
        wait_until(lambda: server.state == "up", "the restart")
        assert server.address == address
        assert servers.paths.key.read_text() == key
        assert sorted(servers.running()) == sorted(servers.starts()[1]["processes"])
        assert any("died; restart 1 of 3" in line for line in server.messages())
    ends = [start.end for start in servers.record().starts]
    assert ends == ["died", "no longer needed"]


def test_a_server_that_hangs_is_ended_and_started_again(servers: FakeServers) -> None:
    with servers.server() as server:
        wait_until_up(server)
        hang = servers.tell("hang")
        wait_for_starts(servers, 2)
        hang.unlink()
        wait_until(lambda: server.state == "up", "the restart")
        assert not set(servers.starts()[0]["processes"]) & set(servers.running())
    assert [start.end for start in servers.record().starts] == ["hung", "no longer needed"]


def test_a_server_without_its_engine_is_started_again_at_once(servers: FakeServers) -> None:
    with servers.server(replace(QUICK, hung_after=600.0)) as server:
        wait_until_up(server)
        unwell = servers.tell("unwell")
        wait_for_starts(servers, 2)
        unwell.unlink()
        wait_until(lambda: server.state == "up", "the restart")
    assert servers.record().starts[0].end == "died"


def test_a_stopped_server_counts_as_hung_and_is_ended(servers: FakeServers) -> None:
    with servers.server() as server:
        wait_until_up(server)
        os.kill(servers.starts()[0]["processes"][0], signal.SIGSTOP)
        wait_for_starts(servers, 2)
    assert servers.record().starts[0].end == "hung"


def test_after_a_few_restarts_in_a_row_it_is_given_up(servers: FakeServers) -> None:
    with servers.server() as server:
        wait_until_up(server)
        servers.tell("last_words", "RuntimeError: the disk is on fire")
        kill(servers.starts()[0]["processes"][0])
        wait_until(lambda: server.state == "failed", "the end of its restarts")
        with pytest.raises(ServerError, match="3 times in a row") as caught:
            server.check()
    assert "the disk is on fire" in str(caught.value)
    assert len(servers.starts()) == 4


def test_a_stop_does_not_wait_for_the_next_restart(servers: FakeServers) -> None:
    patience = replace(QUICK, back_off=(600.0,))
    with servers.server(patience) as server:
        wait_until_up(server)
        kill(servers.starts()[0]["processes"][0])
        wait_until(lambda: server.state == "starting", "the server's end to be noticed")
    assert len(servers.starts()) == 1


# Coordinators that are killed


ABANDON = """
    import os, sys
    from pathlib import Path
    from tests.support.served_models import FakeServers, wait_until_up
    from sweeper.serving.model_server import Patience

    server = FakeServers(Path(sys.argv[1])).server(Patience(grace=float(sys.argv[2])))
    wait_until_up(server)
    os.kill(os.getpid(), 9)
"""


def abandon(servers: FakeServers, grace: float = 600.0) -> None:
    """Start a server in a process that is killed once the server answers."""
    path = os.pathsep.join([str(ROOT), os.environ["PYTHONPATH"]])
    code = textwrap.dedent(ABANDON)
    # The server's path, and with it what it serves, is this process's.
    code = f"import os; os.environ['PYTHONPATH'] = {os.environ['PYTHONPATH']!r}\n{code}"
    done = subprocess.run(
        [sys.executable, "-c", code, str(servers.folder), str(grace)],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert len(servers.running()) == 2


def test_the_next_run_uses_the_server_of_one_that_was_killed(servers: FakeServers) -> None:
    abandon(servers)
    with servers.server() as server:
        wait_until_up(server)
        assert "found the server of the last run" in server.messages()[0]
        assert server.address is not None
        assert server.address.url.endswith(f":{servers.starts()[0]['port']}/v1")
    assert servers.running() == []
    [start] = servers.record().starts
    assert (start.adopted, start.end) == (1, "no longer needed")


def test_an_adopted_server_is_watched_like_any_other(servers: FakeServers) -> None:
    abandon(servers)
    with servers.server() as server:
        wait_until_up(server)
        kill(servers.starts()[0]["processes"][0])
        wait_for_starts(servers, 2)
        wait_until(lambda: server.state == "up", "the restart")
    assert [start.end for start in servers.record().starts] == ["died", "no longer needed"]


@pytest.mark.parametrize("reason", ["another model", "hangs", "no key", "no keeper"])
def test_a_server_that_the_next_run_cannot_use_is_ended(servers: FakeServers, reason: str) -> None:
    abandon(servers)
    server = servers.server()
    if reason == "another model":
        server = servers.server(model="models/other")
    elif reason == "hangs":
        os.kill(servers.starts()[0]["processes"][0], signal.SIGSTOP)
    elif reason == "no key":
        servers.paths.key.unlink()
    else:
        kill(json.loads(servers.paths.processes.read_text())["keeper"]["pid"])
    with server:
        wait_until_up(server)
        assert not set(servers.starts()[0]["processes"]) & set(servers.running())
    assert len(servers.starts()) == 2
    assert servers.record().starts[0].end in ("replaced", "found dead")


def test_a_server_ends_by_itself_when_no_run_comes_for_it(servers: FakeServers) -> None:
    abandon(servers, grace=0.5)
    servers.wait_for_the_end()


def test_a_process_that_has_the_same_id_by_chance_is_left_alone(servers: FakeServers) -> None:
    abandon(servers)
    other = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    content = json.loads(servers.paths.processes.read_text())
    own = [content[which]["pid"] for which in ("keeper", "server")]
    for which in ("keeper", "server"):
        content[which]["pid"] = other.pid
    servers.paths.processes.write_text(json.dumps(content))
    with servers.server() as server:
        wait_until_up(server)
        assert other.poll() is None
        # Its keeper has seen that another launch took its place.
        wait_until(lambda: not any(map(is_running, own)), "the first server's end")
    other.communicate(b"\n")


def test_a_damaged_state_is_no_server(servers: FakeServers) -> None:
    servers.paths.directory.mkdir(parents=True)
    for path in (servers.paths.launch, servers.paths.processes, servers.paths.record):
        path.write_text('{"launch": 3')
    with servers.server() as server:
        wait_until_up(server)
    assert len(servers.record().starts) == 1


def test_two_servers_of_different_folders_run_side_by_side(
    servers: FakeServers, tmp_path: Path
) -> None:
    other = FakeServers(tmp_path / "other")
    with servers.server() as first, ModelServer(other.launch(), other.paths, QUICK) as second:
        wait_until_up(first)
        wait_until_up(second)
        assert first.address != second.address


def test_a_server_can_be_started_again_after_its_end(servers: FakeServers) -> None:
    with servers.server() as server:
        for count in (1, 2):
            wait_until_up(server)
            assert len(servers.starts()) == count
            server.end()
            assert server.address is None
            assert servers.running() == []


def test_a_server_heeds_signals_that_its_starter_ignores(servers: FakeServers) -> None:
    stops = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    before = {stop: signal.signal(stop, signal.SIG_IGN) for stop in stops}
    try:
        with servers.server() as server:
            wait_until_up(server)
    finally:
        for stop, handler in before.items():
            signal.signal(stop, handler)
    assert [start["ignored"] for start in servers.starts()] == [[]]
