"""Dividing students with the versions of torch that sweeper allows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from sweeper.config.models import StudentConfig
from sweeper.distillation import sharding
from sweeper.distillation.models.loading import load_model
from sweeper.foundation.errors import BadInputError
from tests.support.tiny_models import make_tiny


@pytest.fixture
def alone() -> Iterator[None]:
    """A group of one process."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("newer", [True, False])
def test_a_dense_student_can_be_divided_with_any_torch(
    tmp_path: Path, alone: None, monkeypatch: pytest.MonkeyPatch, newer: bool
) -> None:
    if not newer:
        monkeypatch.setattr(sharding, "_TAKES_UNUSED_WEIGHTS", False)
        monkeypatch.delattr(sharding.FSDPModule, "set_reduce_scatter_unused_params", raising=False)
    student = load_model(StudentConfig(model=make_tiny(tmp_path, "qwen2")), "cpu")
    before = {name: part.detach().clone() for name, part in student.named_parameters()}
    assembled = sharding.ShardedStudent(student).assemble()
    for name, part in assembled.named_parameters():
        assert torch.equal(part, before[name])


@pytest.mark.parametrize("kind", ["qwen3_moe", "mixtral"])
def test_an_older_torch_does_not_divide_a_mixture_of_experts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(sharding, "_TAKES_UNUSED_WEIGHTS", False)
    student = load_model(StudentConfig(model=make_tiny(tmp_path, kind)), "cpu")
    with pytest.raises(BadInputError, match=r"expected torch 2\.13 or newer") as raised:
        sharding.ShardedStudent(student)
    assert raised.value.key == ("compute", "shard_student")
