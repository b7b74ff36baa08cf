"""The memory that a loss takes on a GPU, which the driver is asked for."""

from __future__ import annotations

import pytest
import torch

from sweeper.distillation.chunked_loss import BUDGET, chunk_budget

GIB = 2**30


@pytest.mark.parametrize(
    ("free", "reserved", "allocated", "fraction", "expected"),
    [
        (60, 10, 10, 1.0, 2.0),
        (2, 10, 10, 1.0, 0.25),
        (2, 20, 10, 1.0, 1.0),  # of what it has reserved, the process uses half
        (60, 20, 10, 0.25, 1.0),  # 20 GiB are its share, and 10 are left of it
        (60, 20, 19.5, 0.25, 0.25),
    ],
)
def test_the_budget_follows_what_is_free_for_this_process(
    free: float,
    reserved: float,
    allocated: float,
    fraction: float,
    expected: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answers = {
        "mem_get_info": (int(free * GIB), 80 * GIB),
        "memory_reserved": int(reserved * GIB),
        "memory_allocated": int(allocated * GIB),
        "get_per_process_memory_fraction": fraction,
    }
    for name, answer in answers.items():
        monkeypatch.setattr(torch.cuda, name, lambda device, answer=answer: answer)
    assert chunk_budget(torch.device("cuda:0")) == expected * GIB


def test_a_cpu_has_one_budget() -> None:
    assert chunk_budget(torch.device("cpu")) == BUDGET
