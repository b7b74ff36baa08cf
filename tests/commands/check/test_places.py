"""What ``check`` says of the places that a study reads and writes, before ``run`` meets them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sweeper.commands.check.places import check_folders, place_findings
from sweeper.commands.check.run_checks import check
from sweeper.config.loading import load_study
from sweeper.foundation.errors import ConfigError
from sweeper.records.layout import StudyPaths
from sweeper.study.manifest import has_begun, open_manifest
from tests.support.tracking_examples import free_port

WriteStudy = Callable[..., Path]


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"file/runs: cannot be made: .*/file is a file"):
        check_folders([tmp_path / "file" / "runs"])
    check_folders([tmp_path, tmp_path / "new" / "runs"])


def test_a_folder_without_permission_is_named(tmp_path: Path) -> None:
    # A place that not even root may write to; its own permissions say otherwise to root.
    with pytest.raises(ConfigError, match=r"/proc/.*cannot be written"):
        check_folders([Path("/proc/runs")])


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("storage", {"storage": "postgresql://127.0.0.1:{port}/trials"}),
        ("tracking.uri", {"tracking": {"uri": "http://127.0.0.1:{port}"}}),
        ("tracking.uri", {"tracking": {"uri": "postgresql://me:secret@127.0.0.1:{port}/runs"}}),
    ],
)
def test_a_database_or_a_server_that_does_not_answer_is_found_before_anything_runs(
    write_study: WriteStudy, key: str, values: dict[str, Any]
) -> None:
    written = json.loads(json.dumps(values).replace("{port}", str(free_port())))
    study = load_study(write_study(**written))
    (found,) = place_findings(study, [], [])
    assert found.state == "error"
    assert "study.yaml:" in found.place and found.place.endswith(key)
    assert "refused" in found.detail
    assert "secret" not in found.detail


@pytest.mark.slow
def test_a_study_that_changed_since_its_first_trial_is_refused(
    write_study: WriteStudy, tmp_path: Path
) -> None:
    first = load_study(write_study(seed=1))
    runs = tmp_path / "runs"
    paths = StudyPaths(runs, first.config.study)
    open_manifest(first, paths, ["test"], 1)
    changed = load_study(write_study(seed=2))
    assert not has_begun(paths)
    spec = paths.trial("gkd", 0).spec
    spec.parent.mkdir(parents=True)
    spec.write_text("{}", encoding="utf-8")
    reports, cache = tmp_path / "reports", tmp_path / "cache"
    (row,) = check(changed, runs, reports=reports, cache=cache).errors
    assert row.place.endswith("study")
    assert "was started differently (seed: was 1, now 2)" in row.detail
    assert "another name" in row.detail
