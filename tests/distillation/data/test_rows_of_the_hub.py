"""Rows of data sets that are no local files: from the hub, or from its cache."""

from __future__ import annotations

import json
from pathlib import Path

import datasets
import pytest

from sweeper.config.data import DataConfig
from sweeper.config.suite import SuiteConfig
from sweeper.distillation.data.rows import read_rows
from sweeper.evaluation.tasks import load_tasks
from sweeper.foundation.errors import BadInputError
from sweeper.records import SuiteSpec

DATA = DataConfig.model_validate({"train": {"path": "corpus_x"}})
ROWS = [{"prompt": "1+1", "completion": "2"}, {"prompt": "1+2", "completion": "3"}]


@pytest.fixture
def cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Leave rows of a folder in the library's cache; return the folder that they are kept in."""
    folder = tmp_path / "A" / "corpus_x"
    folder.mkdir(parents=True)
    text = "".join(json.dumps(row) + "\n" for row in ROWS)
    (folder / "train.jsonl").write_text(text, encoding="utf-8")
    (tmp_path / "B").mkdir()
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path / "A")
    loaded = datasets.load_dataset("corpus_x", split="train")
    monkeypatch.chdir(tmp_path / "B")
    return Path(loaded.cache_files[0]["filename"]).parent


def test_ghost_folder_a_in_a_cache_does_not_stand_in_for_ghost_folder_b(cached: Path) -> None:
    with pytest.raises(BadInputError, match="found no corpus_x; only the cache of the library"):
        read_rows(DATA, ())


def test_a_cached_data_set_of_the_hub_is_read_offline(cached: Path) -> None:
    cached.rename(cached.parent / ("0123456789" * 4))
    assert read_rows(DATA, ())[0] == ROWS


def test_a_name_that_is_nowhere_is_refused_in_both_meanings(cached: Path) -> None:
    data = DataConfig.model_validate({"train": {"path": "corpus_y"}})
    with pytest.raises(BadInputError, match="no such file or folder, and as a data set on the hub"):
        read_rows(data, ())


def test_ghost_folder_B_is_no_source_of_a_suites_documents(cached: Path, tmp_path: Path) -> None:
    task = {
        "task": "ghost",
        "dataset_path": "corpus_x",
        "test_split": "train",
        "output_type": "generate_until",
        "doc_to_text": "{{prompt}}",
        "doc_to_target": "{{completion}}",
        "metric_list": [{"metric": "exact_match"}],
    }
    (tmp_path / "B" / "ghost.yaml").write_text(json.dumps(task), encoding="utf-8")
    config = SuiteConfig.model_validate({"suite": "s", "tasks": [{"task": "ghost"}]})
    spec = SuiteSpec(config=config, task_directories=(str(tmp_path / "B"),), content_hash="")
    with pytest.raises(BadInputError, match=r"Task ghost: .* found no corpus_x; only the cache"):
        load_tasks(spec)
    cached.rename(cached.parent / ("0123456789" * 4))
    [leaf] = load_tasks(spec)
    assert len(leaf.documents) == len(ROWS)
