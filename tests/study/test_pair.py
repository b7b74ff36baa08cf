"""Which study a recorded diagnosis of the pair is of."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sweeper.config.loading import LoadedStudy, load_study
from sweeper.records import Outcome
from sweeper.records.layout import JobPaths, StudyPaths
from sweeper.study import pair
from sweeper.study.manifest import input_hashes
from tests.support.pairs import diagnosis
from tests.support.tiny_studies import adder_study


def request(study: LoadedStudy) -> Any:
    return pair.pair_request(study.config, input_hashes(study))


@pytest.fixture
def kept(write_study: Callable[..., Path], tmp_path: Path) -> StudyPaths:
    """A study that was probed, and not begun."""
    outcome = diagnosis()
    assert outcome.pair is not None
    found = outcome.pair.model_copy(update={"request": request(load_study(write_study()))})
    done = JobPaths(tmp_path / "probe")
    done.directory.mkdir()
    done.samples.write_text("{}\n", encoding="utf-8")
    changed = outcome.model_copy(update={"pair": found})
    done.outcome.write_text(changed.model_dump_json(), encoding="utf-8")
    paths = StudyPaths(tmp_path / "runs", "tiny")
    pair.keep(done, paths)
    return paths


def read(paths: StudyPaths, study: LoadedStudy) -> Outcome | None:
    return pair.read_pair(paths, study.config, input_hashes(study))


@pytest.mark.parametrize(
    "changes",
    [
        {"trials": 5},
        {"confirm": {"seeds": 3}},
        {"training": {**adder_study()["training"], "learning_rate": 1e-4}},
    ],
)
def test_it_stays_the_studys_where_nothing_changes_that_it_measured(
    kept: StudyPaths, write_study: Callable[..., Path], changes: dict[str, Any]
) -> None:
    found = read(kept, load_study(write_study(**changes)))
    assert found is not None and found.pair is not None


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 4},
        {"student": {"model": "builtin/adder-teacher"}},
        {"teacher": {"model": "builtin/adder-student"}},
        {"data": {"train": {"path": "builtin/addition", "limit": 23}}},
        {"warm_start": {"method": "sft", "max_steps": 3}},
        {"training": {**adder_study()["training"], "max_length": 95}},
        {"arms": {"gkd": {"settings": {"max_new_tokens": 9}}}},
        {"arms": {"gkd": {"settings": {"teacher.model": "builtin/adder-student"}}}},
    ],
)
def test_it_is_not_that_of_another_study(
    kept: StudyPaths, write_study: Callable[..., Path], changes: dict[str, Any]
) -> None:
    assert read(kept, load_study(write_study(**changes))) is None


def test_what_is_sampled_follows_from_the_arms(write_study: Callable[..., Path]) -> None:
    arms: dict[str, Any] = {
        "gkd": {"search": {"max_new_tokens": {"type": "int", "low": 8, "high": 512}}},
        "own": {"method": "gkd", "settings": {"teacher.model": "builtin/adder-student"}},
        "sft": {},
    }
    found = request(load_study(write_study(arms=arms)))
    assert (found.max_new_tokens, found.rollout_limit) == (pair.LONGEST, 512)
    assert found.teachers == ("builtin/adder-teacher", "builtin/adder-student")
    found = request(load_study(write_study(arms={"sft": {}, "seqkd": {}})))
    assert (found.max_new_tokens, found.rollout_limit) == (48, None)


def test_a_damaged_record_is_none(kept: StudyPaths, write_study: Callable[..., Path]) -> None:
    study = load_study(write_study())
    files = kept.preparation(pair.STEP)
    plain = json.loads(files.outcome.read_bytes())
    del plain["pair"]["pairs"]
    files.outcome.write_text(json.dumps(plain), encoding="utf-8")
    assert read(kept, study) is None
