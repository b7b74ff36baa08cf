"""What tests share: tiny real models, and studies that finish in seconds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.postgres import postgres, postgres_server
from tests.support.tiny_studies import adder_study, adder_suite, make_model, write_yaml

__all__ = ["postgres", "postgres_server"]


@pytest.fixture(scope="session")
def tiny_teacher(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_model(tmp_path_factory.mktemp("models") / "teacher", layers=2, width=32, seed=1)


@pytest.fixture(scope="session")
def tiny_student(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_model(tmp_path_factory.mktemp("models") / "student", layers=1, width=16, seed=2)


@pytest.fixture
def write_study(tmp_path: Path) -> Callable[..., Path]:
    """Writes a study file with its suites into ``tmp_path``; keys given replace the defaults."""

    def write(**changes: Any) -> Path:
        write_yaml(tmp_path / "selection.yaml", adder_suite("selection", 0, 12))
        write_yaml(tmp_path / "test.yaml", adder_suite("test", 12, 20))
        return write_yaml(tmp_path / "study.yaml", adder_study(**changes))

    return write


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> Iterator[None]:
    """Torch in the test process computes on one thread; its results do not depend on the box."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs a GPU where torch can use none; it has been deselected unless asked for."""
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if not marked:
        return
    import torch

    if not torch.cuda.is_available():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="torch can use no GPU here"))


@pytest.fixture(autouse=True)
def _one_gpu(request: pytest.FixtureRequest) -> None:
    """Show one GPU to trainers in tests' own process, as a trial's has: they take all they see."""
    if request.node.get_closest_marker("gpu"):
        import torch

        monkeypatch = request.getfixturevalue("monkeypatch")
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
