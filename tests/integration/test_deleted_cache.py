"""The cache is emptied between two runs of a study, and while it runs."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.whole_studies import WholeStudy, wait_until

pytestmark = pytest.mark.soak

CHANGES = {
    "warm_start": {"max_steps": 2},
    "arms": {"supervised_kd": {"trials": 1}, "seqkd": {"trials": 1}},
}


def entries(study: WholeStudy) -> set[str]:
    """What is in the cache, by kind and key."""
    return {
        str(path.parent.relative_to(study.directory / study.cache))
        for path in (study.directory / study.cache).glob("*/*/key.json")
    }


def test_a_cache_that_is_emptied_changes_nothing(
    write_study: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> None:
    undisturbed = WholeStudy(write_study(**CHANGES).parent)
    undisturbed.check(undisturbed.run())
    whole = entries(undisturbed)
    kinds = {name.split("/")[0] for name in whole}
    assert kinds == {"tokens", "warm_starts", "teacher_outputs", "teacher_states", "held_out"}

    # While it runs: whatever is read after that is made again.
    study = undisturbed.copy(tmp_path_factory.mktemp("disturbed"))
    process = study.start()
    first = study.paths.directory / "arms" / "supervised_kd" / "0000" / "spec.json"
    wait_until(lambda: first.exists() or process.poll() is not None, "the first trial")
    shutil.rmtree(study.directory / study.cache)
    done = study.end(process)
    study.check(done)
    assert study.results() == undisturbed.results()

    # When nothing is left to do, nothing is made again.
    shutil.rmtree(study.directory / study.cache)
    study.check(study.run())
    assert entries(study) == set()

    # Between two runs: the preparation is done again where trials are left.
    before = study.paths.preparation("student").outcome.stat().st_mtime_ns
    done = study.run("--set", "arms.supervised_kd.trials=2")
    study.check(done)
    assert study.paths.preparation("student").outcome.stat().st_mtime_ns > before
    # What only an arm that is done had read is not.
    assert entries(study) <= whole
    assert {name.split("/")[0] for name in entries(study)} == kinds
    assert len(study.results()) == 3
