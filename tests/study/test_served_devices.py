"""The devices that the teacher's server has."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sweeper.config.loading import LoadedStudy, load_study
from sweeper.config.started_server import StartedServer
from sweeper.foundation.errors import ConfigError
from sweeper.study.served_models import server_devices, server_problems, trial_devices
from sweeper.study.served_orders import memory_of_servers, started_server
from tests.support.gpus import report_gpus

WriteStudy = Callable[..., Path]


@pytest.fixture
def four_gpus(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    report_gpus(monkeypatch, tmp_path, 4)


def served(
    write_study: WriteStudy,
    arms: dict[str, Any] | None = None,
    compute: dict[str, Any] | None = None,
    **keys: Any,
) -> tuple[LoadedStudy, StartedServer]:
    teacher = {"model": "builtin/adder-teacher", "server": {"start": "vllm", **keys}}
    arms = arms or {"seqkd": {}}
    study = load_study(write_study(teacher=teacher, arms=arms, compute=compute or {}))
    server = started_server(study.config)
    assert server is not None
    return study, server


def test_a_loaded_teacher_needs_no_server(write_study: WriteStudy) -> None:
    study = load_study(write_study())
    assert started_server(study.config) is None
    assert server_problems(study) == ()


def test_a_machine_without_gpus_serves_on_its_cpu(write_study: WriteStudy) -> None:
    assert server_devices(*served(write_study, gpus=0)) == ("cpu",)


@pytest.mark.usefixtures("four_gpus")
def test_the_server_has_the_last_gpus(write_study: WriteStudy) -> None:
    assert server_devices(*served(write_study)) == ("cuda:3",)
    assert server_devices(*served(write_study, gpus=2)) == ("cuda:2", "cuda:3")
    assert server_devices(*served(write_study, gpus=0)) == ("cpu",)


@pytest.mark.usefixtures("four_gpus")
def test_more_gpus_than_there_are_is_a_mistake_at_its_key(write_study: WriteStudy) -> None:
    study, server = served(write_study, gpus=5)
    with pytest.raises(ConfigError, match="expected at most 4, the GPUs of this machine, found 5"):
        server_devices(study, server)
    [problem] = server_problems(study)
    assert problem.path == "teacher.server.gpus"


def test_a_packed_model_is_refused_before_anything_starts(write_study: WriteStudy) -> None:
    teacher = {"model": "builtin/smollm2-135m-instruct", "server": {"start": "vllm", "gpus": 0}}
    study = load_study(write_study(teacher=teacher, arms={"seqkd": {}}))
    [problem] = server_problems(study)
    assert problem.path == "teacher.model"
    assert "expected a folder or a hub id next to server" in problem.message


GKD: dict[str, Any] = {"gkd": {"settings": {"teacher_signal": "top_k"}}}
SEQKD: dict[str, Any] = {"seqkd": {}}


@pytest.mark.parametrize(
    ("gpus", "arms", "server", "devices", "trials"),
    [
        # Trials that ask the teacher leave it the last GPUs.
        (4, GKD, {}, ["cuda:3"], ["cuda:0", "cuda:1", "cuda:2"]),
        (4, GKD, {"gpus": 3}, ["cuda:1", "cuda:2", "cuda:3"], ["cuda:0"]),
        (2, GKD, {}, ["cuda:1"], ["cuda:0"]),
        # Or share them, if it has all.
        (4, GKD, {"gpus": 4, "gpu_memory": 0.5}, [f"cuda:{at}" for at in range(4)], None),
        (1, GKD, {"gpu_memory": 0.5}, ["cuda:0"], None),
        # Its GPUs are free for trials that do not.
        (4, SEQKD, {}, ["cuda:3"], None),
        (1, SEQKD, {}, ["cuda:0"], None),
        # A server on the CPU leaves all GPUs.
        (4, GKD, {"gpus": 0}, ["cpu"], [f"cuda:{at}" for at in range(4)]),
    ],
)
def test_who_has_which_gpu(
    write_study: WriteStudy,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    gpus: int,
    arms: dict[str, Any],
    server: dict[str, Any],
    devices: list[str],
    trials: list[str] | None,
) -> None:
    report_gpus(monkeypatch, tmp_path, gpus)
    study, started = served(write_study, arms=arms, **server)
    assert list(server_devices(study, started)) == devices
    assert trial_devices(study) == trials


@pytest.mark.parametrize(
    ("gpus", "server"), [(1, {}), (2, {"gpus": 2})], ids=["one GPU", "all GPUs"]
)
def test_a_shared_gpu_is_divided_by_the_study_file(
    write_study: WriteStudy,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    gpus: int,
    server: dict[str, Any],
) -> None:
    report_gpus(monkeypatch, tmp_path, gpus)
    study, _ = served(write_study, arms=GKD, **server)
    [problem] = server_problems(study)
    assert problem.path == "teacher.server.gpu_memory"
    assert "expected a share: trials ask this server" in problem.message


@pytest.mark.usefixtures("four_gpus")
@pytest.mark.parametrize(
    ("compute", "trials"),
    [
        ({"device": "cuda"}, ["cuda:0", "cuda:1", "cuda:2"]),
        ({"device": "cpu"}, ["cpu"]),
        ({"resources_per_trial": {"gpu": 0}}, ["cpu"]),
        ({"resources_per_trial": {"gpu": 0.5}}, ["cuda:0", "cuda:1", "cuda:2"]),
    ],
)
def test_trials_have_what_they_ask_for_of_the_others(
    write_study: WriteStudy, compute: dict[str, Any], trials: list[str]
) -> None:
    study, _ = served(write_study, arms=GKD, compute=compute)
    assert trial_devices(study) == trials


@pytest.mark.parametrize(
    ("teacher", "student", "taken"),
    [(False, False, 0.0), (True, False, 0.5), (False, True, 0.3), (True, True, 0.8)],
)
def test_servers_leave_the_rest_of_a_gpu_to_trials(
    write_study: WriteStudy, teacher: bool, student: bool, taken: float
) -> None:
    study, _ = served(write_study, GKD, gpus=0, gpu_memory=0.5)
    found = memory_of_servers(study.config, teacher=teacher, student=student)
    assert found == pytest.approx(taken)
