"""A study whose teacher is served: one server for all of its jobs, and none that is left.

The server is a real process that starts in no time and has no model; real jobs train and score.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sweeper.records.layout import ServerPaths
from tests.support.served_models import FakeServers, fake_servers
from tests.support.waiting import wait_until
from tests.support.whole_studies import WholeStudy

pytestmark = pytest.mark.slow
WriteStudy = Callable[..., Path]
TEACHER = {"model": "builtin/adder-teacher", "server": {"start": "vllm"}}


@pytest.fixture
def servers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeServers]:
    with fake_servers(tmp_path / "fake", monkeypatch) as servers:
        servers.paths = ServerPaths(tmp_path / "runs" / "tiny" / "servers" / "teacher")
        yield servers


def test_two_trials_at_once_use_one_server_which_ends_with_the_study(
    write_study: WriteStudy, servers: FakeServers
) -> None:
    study = WholeStudy(write_study(teacher=TEACHER, compute={"workers": 2}).parent)
    done = study.run()
    study.check(done)
    assert "tiny: starting the teacher's server" in done.stdout
    assert "the server answers at http://127.0.0.1:" in done.stdout
    [start] = servers.starts()
    url = f"http://127.0.0.1:{start['port']}/v1"
    steps = [study.paths.preparation(step) for step in ("student", "teacher")]
    for files in (*study.trials().values(), *steps):
        place = json.loads(files.spec.read_text())["place"]
        assert place["served_teacher"]["url"] == url
    [recorded] = servers.record().starts
    assert (recorded.end, recorded.devices) == ("study ended", ("cpu",))
    shown = json.loads(study.run("--json", command="report").stdout)
    assert len(shown["servers"][0]["starts"]) == 1


def test_ctrl_c_while_the_server_starts_leaves_no_process(
    write_study: WriteStudy, servers: FakeServers
) -> None:
    servers.tell("silent")
    study = WholeStudy(write_study(teacher=TEACHER).parent)
    done = study.run_until(lambda: bool(servers.starts()), signal.SIGINT, group=True)
    assert done.returncode == 130
    assert "Run the same command to resume" in done.stdout
    assert servers.running() == []


def test_a_killed_coordinator_leaves_its_server_to_the_next_run(
    write_study: WriteStudy, servers: FakeServers
) -> None:
    study = WholeStudy(write_study(teacher=TEACHER).parent)
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
    study = WholeStudy(write_study(teacher=TEACHER).parent)
    for command in ("check", "run"):
        done = study.run(command=command)
        assert done.returncode == 2
        shown = " ".join((done.stdout + done.stderr).split())
        assert "pip install 'sweeper[vllm]'" in shown
        assert "teacher.server.start" in shown
