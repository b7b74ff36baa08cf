"""The first step under autocast, before which a model's head is looked for without gradients."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.training_jobs import untrained


@pytest.mark.parametrize("lmbda", [0.0, 1.0])
def test_the_first_step_trains_every_weight(tmp_path: Path, lmbda: float) -> None:
    assert untrained(tmp_path, "cpu", lmbda) == []
