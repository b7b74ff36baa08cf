"""The devices that the teacher's server has."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sweeper.config.loading import LoadedStudy, load_study
from sweeper.config.started_server import StartedServer
from sweeper.foundation.errors import ConfigError
from sweeper.study.served_models import server_devices, server_problems
from sweeper.study.served_orders import started_server

WriteStudy = Callable[..., Path]


@pytest.fixture
def four_gpus(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A driver, as a program in the path, that reports four GPUs of 80 GiB."""
    driver = tmp_path / "bin" / "nvidia-smi"
    driver.parent.mkdir()
    driver.write_text(
        "#!/bin/sh\n"
        'case "$1" in --list-gpus) for i in 0 1 2 3; do echo "GPU $i"; done;;\n'
        "*) for i in 0 1 2 3; do echo 81920; done;; esac\n"
    )
    driver.chmod(0o755)
    monkeypatch.setenv("PATH", f"{driver.parent}:/usr/bin:/bin")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr("importlib.metadata.version", lambda name: "2.13.0")


def served(write_study: WriteStudy, **keys: Any) -> tuple[LoadedStudy, StartedServer]:
    teacher = {"model": "builtin/adder-teacher", "server": {"start": "vllm", **keys}}
    study = load_study(write_study(teacher=teacher, arms={"seqkd": {}}))
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
