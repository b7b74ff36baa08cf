"""How the devices of a machine are shared out between the teacher's server and trials."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sweeper.config.loading import LoadedStudy, load_study
from sweeper.execution.device_sharing import trial_memory
from sweeper.foundation.errors import ConfigError
from sweeper.study.served_teacher import server_problems, split_devices

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


def served(write_study: WriteStudy, compute: dict[str, Any], **keys: Any) -> LoadedStudy:
    teacher = {"model": "builtin/adder-teacher", "server": {"start": "vllm", **keys}}
    return load_study(write_study(teacher=teacher, compute=compute))


def test_without_a_server_nothing_is_shared_out(write_study: WriteStudy) -> None:
    assert split_devices(load_study(write_study())) is None
    assert server_problems(load_study(write_study())) == ()


def test_a_machine_without_gpus_serves_on_its_cpu(write_study: WriteStudy) -> None:
    split = split_devices(served(write_study, {"device": "cpu"}, gpus=0))
    assert split is not None
    assert (split.server, split.trials, split.shared) == (("cpu",), ("cpu",), False)


@pytest.mark.usefixtures("four_gpus")
def test_the_server_has_the_last_gpus_and_trials_the_others(write_study: WriteStudy) -> None:
    split = split_devices(served(write_study, {}, gpus=2))
    assert split is not None
    assert split.server == ("cuda:2", "cuda:3")
    assert split.trials == ("cuda:0", "cuda:1")
    assert (split.shared, split.share) == (False, 0.0)
    default = split_devices(served(write_study, {}))
    assert default is not None
    assert default.server == ("cuda:3",)


@pytest.mark.usefixtures("four_gpus")
def test_where_there_is_no_other_gpu_trials_share_the_servers(write_study: WriteStudy) -> None:
    study = served(write_study, {"workers": 4}, gpus=4, gpu_memory=0.25)
    split = split_devices(study)
    assert split is not None
    assert split.trials == split.server
    assert (split.shared, split.share) == (True, 0.25)
    [memory] = trial_memory(study.config.compute, split.trials, split.share)
    assert memory.bytes == 60 * 2**30
    assert memory.name == "a GPU of 80 GiB next to the teacher's server (25%)"


@pytest.mark.usefixtures("four_gpus")
def test_more_gpus_than_there_are_is_a_mistake_at_its_key(write_study: WriteStudy) -> None:
    study = served(write_study, {}, gpus=5)
    with pytest.raises(ConfigError, match="expected at most 4, the GPUs of this machine, found 5"):
        split_devices(study)
    [problem] = server_problems(study)
    assert problem.path == "teacher.server.gpus"
