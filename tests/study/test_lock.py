from __future__ import annotations

from pathlib import Path

import pytest

from sweeper.foundation.errors import StudyBusyError
from sweeper.records.layout import StudyPaths
from sweeper.study.lock import hold


def test_a_study_has_one_coordinator(tmp_path: Path) -> None:
    paths = StudyPaths(tmp_path, "s")
    busy = pytest.raises(StudyBusyError, match=r"already being run by process \d+ on")
    with hold(paths), busy, hold(paths):
        pass
    with hold(paths):
        pass
