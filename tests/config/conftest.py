"""What the tests of study files share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.study_texts import SUITE


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("selection", "test"):
        (tmp_path / f"{name}.yaml").write_text(SUITE.replace("SUITE", name), encoding="utf-8")
    return tmp_path
