"""The forecast of memory against what trainings take."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.engine import in_own_process
from benchmarks.memory import DESIGNS, measure

BY_NAME = {design.name: design for design in DESIGNS}


@pytest.mark.soak
@pytest.mark.parametrize("name", ["beta 0.5", "sft, adapter", "wide"])
def test_a_training_takes_what_was_forecast(name: str, tmp_path: Path) -> None:
    found = in_own_process(measure, BY_NAME[name], tmp_path, 1)
    assert found.ratio == pytest.approx(1.0, abs=0.2)
