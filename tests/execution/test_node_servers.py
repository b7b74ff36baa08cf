"""Which GPU of a node is whose: the names that torch has, and those of the driver."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sweeper.config.models import ModelConfig
from sweeper.config.started_server import StudentServer
from sweeper.execution.cluster import NodeOrder
from sweeper.execution.ray_node import with_own_student
from sweeper.execution.server_host import ServerHost, node_devices
from sweeper.records import ServedModel
from sweeper.records.layout import ServerPaths
from sweeper.serving.model_server import Patience
from sweeper.serving.order import ServerOrder
from tests.support.trial_jobs import make_spec

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("given", "all_gpus", "expected"),
    [
        ("2", None, ("cuda:2",)),
        ("3,1", None, ("cuda:3", "cuda:1")),
        ("5", "4,5", ("cuda:1",)),
        ("GPU-b", "GPU-a,GPU-b", ("cuda:1",)),
    ],
)
def test_gpus_that_a_process_was_given_have_names_on_the_node(
    given: str, all_gpus: str | None, expected: tuple[str, ...]
) -> None:
    assert node_devices(given, all_gpus) == expected


def test_a_job_asks_the_student_of_its_own_gpu(write_study: Any) -> None:
    students = {
        name: ServedModel(url=f"http://{name}", name=name, key_file="") for name in ("4", "5")
    }
    spec = make_spec(write_study())
    assert with_own_student(spec, None) is spec
    place = spec.place.model_copy(update={"gpu_students": students})
    spec = spec.model_copy(update={"place": place})
    assert with_own_student(spec, "5").place.served_student == students["5"]
    assert with_own_student(spec, "5").place.gpu_students == {}
    assert with_own_student(spec, "6").place.served_student is None


def test_a_server_has_its_gpu_by_the_drivers_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sweeper.execution.server_host._restore_environment", lambda: None)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5")
    model = ModelConfig(model="models/student")
    order = ServerOrder("student", model, StudentServer(), source="start", content="hash")
    servers = [(ServerPaths(tmp_path / name), (name,)) for name in ("cuda:0", "cuda:1")]
    host = ServerHost(NodeOrder(order, "0", servers, 0, Patience()), {})
    assert list(host._servers) == ["4", "5"]
    assert not host.report().ready
