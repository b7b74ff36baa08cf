from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sweeper.config.models import LoraConfig, StudentConfig
from sweeper.foundation.errors import SweeperError
from sweeper.tracking.mapping import effective_settings, text_of, trial_params, valid_key
from sweeper.tracking.mlflow_store import MlflowStore, find_experiment
from sweeper.tracking.mlflow_tracker import MlflowTracker
from sweeper.tracking.points import MetricPoint
from tests.support.tracking_examples import (
    PASSWORD,
    completed,
    free_port,
    job_files,
    mlflow_place,
    open_study,
    opened,
    summary,
    trial_spec,
)


def test_a_new_database_is_made_without_a_word(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    uri = f"sqlite:///{tmp_path}/new/mlflow.db"
    assert find_experiment(uri, "digits") is None
    tracker = MlflowTracker(MlflowStore(uri, "digits", str(tmp_path / "artifacts")), "digits")
    open_study(tracker)
    tracker.close()
    assert capfd.readouterr() == ("", "")
    assert not [record for record in caplog.records if record.name.startswith("mlflow")]
    assert find_experiment(uri, "digits") is not None


def test_all_pages_of_runs_are_looked_up(tmp_path: Path, empty_database: Path) -> None:
    place = mlflow_place(tmp_path, empty_database)
    tracker = opened(place)
    for number in range(12):
        tracker.start_trial(trial_spec(number))
    tracker = opened(place, page_size=5)
    for number in range(12):
        tracker.start_trial(trial_spec(number))
    assert len(place.by_kind("trial")) == 12


def test_more_than_a_thousand_runs_are_looked_up(tmp_path: Path, empty_database: Path) -> None:
    place = mlflow_place(tmp_path, empty_database)
    opened(place)
    (arm,) = place.by_kind("arm")
    with sqlite3.connect(tmp_path / "mlflow.db") as database:
        # Straight into the tables, because a thousand runs through MLflow take 40 s.
        names = [row[1] for row in database.execute("PRAGMA table_info(runs)")]
        columns = ", ".join(names)
        copied = columns.replace("run_uuid", "'copy-' || value")
        database.execute(
            f"INSERT INTO runs ({columns}) SELECT {copied} FROM runs, "
            "(WITH RECURSIVE counter(value) AS (SELECT 0 UNION ALL SELECT value + 1 FROM counter "
            "WHERE value < 1099) SELECT value FROM counter) WHERE run_uuid = ?",
            (arm.id,),
        )
        for number in range(1100):
            tags = {
                "sweeper.study": "digits",
                "sweeper.kind": "trial",
                "sweeper.arm": "gkd",
                "sweeper.trial": str(number),
                "mlflow.parentRunId": arm.id,
            }
            database.executemany(
                "INSERT INTO tags (key, value, run_uuid) VALUES (?, ?, ?)",
                [(key, value, f"copy-{number}") for key, value in tags.items()],
            )
    tracker = opened(place)
    for number in (0, 1099):
        tracker.start_trial(trial_spec(number))
    with sqlite3.connect(tmp_path / "mlflow.db") as database:
        assert database.execute("SELECT count(*) FROM runs").fetchone() == (1102,)


def test_batches_larger_than_mlflow_takes_are_split(tmp_path: Path, empty_database: Path) -> None:
    mlflow_place(tmp_path, empty_database)
    store = MlflowStore(f"sqlite:///{tmp_path}/mlflow.db", "digits", str(tmp_path))
    store.open()
    assert list(store.find({"sweeper.study": "digits"})) == []
    run = store.create({"sweeper.study": "digits"}, 0)
    points = [MetricPoint("train/loss", float(step), step, 1000 * step) for step in range(1700)]
    texts = {f"name{number}": "value" for number in range(230)}
    for _ in range(2):
        store.write(run, points, texts, texts)
    (found,) = store.find({"sweeper.study": "digits"})
    assert len(found.params) == 230
    with sqlite3.connect(tmp_path / "mlflow.db") as database:
        assert database.execute("SELECT count(*) FROM metrics").fetchone() == (1700,)


def test_long_values_and_odd_names_are_taken(tmp_path: Path, empty_database: Path) -> None:
    place = mlflow_place(tmp_path, empty_database)
    extra = {"optim_args": "x" * 7000, "odd[name]=": 1}
    opened(place).start_trial(trial_spec(settings={"extra": extra}))
    (run,) = place.by_kind("trial")
    assert run.params["training/extra.odd_name__"] == "1"
    value = run.params["training/extra.optim_args"]
    assert len(value) == 6000 and value.endswith("x … cut from 7000 characters")
    # The same again: what was cut is no change.
    opened(place).start_trial(trial_spec(settings={"extra": extra}))
    assert "sweeper.changed" not in place.by_kind("trial")[0].tags


def test_no_run_is_active_and_no_uri_is_set(tmp_path: Path, empty_database: Path) -> None:
    import mlflow

    before = mlflow.get_tracking_uri()
    opened(mlflow_place(tmp_path, empty_database)).start_trial(trial_spec())
    assert mlflow.active_run() is None
    assert mlflow.get_tracking_uri() == before


def test_the_password_is_nowhere_in_the_database(tmp_path: Path, empty_database: Path) -> None:
    tracker = opened(mlflow_place(tmp_path, empty_database))
    tracker.log_data(summary())
    tracker.finish_trial(trial_spec(), completed(), job_files(tmp_path))
    tracker.finish_study([], "finished")
    tracker.close()
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or PASSWORD.encode() not in path.read_bytes(), path


@pytest.mark.parametrize("scheme", ["http", "nonsense"])
def test_a_place_that_cannot_be_used_is_named_without_its_password(scheme: str) -> None:
    uri = f"{scheme}://me:{PASSWORD}@127.0.0.1:{free_port()}/mlflow"
    tracker = MlflowTracker(MlflowStore(uri, "digits", None), "digits")
    with pytest.raises(SweeperError, match=rf"MLflow cannot use {scheme}://me:\*\*\*@") as caught:
        open_study(tracker)
    assert PASSWORD not in str(caught.value)
    assert caught.value.__cause__ is None


def test_a_deleted_experiment_is_explained(tmp_path: Path, empty_database: Path) -> None:
    from mlflow import MlflowClient

    place = mlflow_place(tmp_path, empty_database)
    opened(place)
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    found = client.get_experiment_by_name("digits")
    assert found is not None
    client.delete_experiment(found.experiment_id)
    with pytest.raises(SweeperError, match=r"is deleted\. Restore it with"):
        opened(place)


def gkd_params(method: str, **settings: Any) -> dict[str, str]:
    params = trial_params(trial_spec(method=method, settings=settings))
    return {key: value for key, value in params.items() if key.startswith("gkd/")}


def test_parameters_are_namespaced_and_dead_ones_are_left_out() -> None:
    rollout = {"gkd/temperature": "0.9", "gkd/max_new_tokens": "128"}
    exact = {"gkd/teacher_signal": "exact"}
    assert gkd_params("gkd") == {
        "gkd/lmbda": "0.5",
        "gkd/beta": "0.5",
        "gkd/seq_kd": "false",
        **rollout,
        **exact,
    }
    assert gkd_params("gkd", lmbda=1.0, beta=0.1) == {
        "gkd/lmbda": "1.0",
        "gkd/beta": "0.1",
        **rollout,
        **exact,
    }
    assert gkd_params("gkd", lmbda=0.0) == {
        "gkd/lmbda": "0.0",
        "gkd/beta": "0.5",
        "gkd/seq_kd": "false",
        **exact,
    }
    assert gkd_params("supervised_kd") == {
        "gkd/lmbda": "0.0",
        "gkd/beta": "0.0",
        "gkd/seq_kd": "false",
        **exact,
    }
    assert gkd_params("gkd", lmbda=1.0, teacher_signal="sampled") == {
        "gkd/lmbda": "1.0",
        "gkd/beta": "1.0",
        "gkd/teacher_signal": "sampled",
        **rollout,
    }
    assert gkd_params("supervised_kd", teacher_signal="top_k", teacher_top_k=8) == {
        "gkd/lmbda": "0.0",
        "gkd/beta": "0.0",
        "gkd/seq_kd": "false",
        "gkd/teacher_signal": "top_k",
        "gkd/teacher_top_k": "8",
    }
    assert gkd_params("sft") == gkd_params("seqkd") == {}


def test_every_other_parameter_has_its_namespace() -> None:
    student = StudentConfig(model="builtin/small", lora=LoraConfig(r=4))
    spec = trial_spec(
        student=student,
        lora={"r": 8},
        params={"lmbda": 0.5, "teacher.model": "other/teacher", "lora.r": 8},
        settings={"learning_rate": 1e-3, "extra": {"optim_args": "a=1"}},
    )
    params = trial_params(spec.model_copy(update={"teacher": {"model": "other/teacher"}}))
    assert params["training/learning_rate"] == "0.001"
    assert params["training/disable_dropout"] == "true"
    assert params["training/extra.optim_args"] == "a=1"
    assert params["teacher/model"] == "other/teacher"
    assert params["lora/r"] == "8"
    assert params["lora/target_modules"] == "all-linear"
    assert params["study/arm"] == params["study/method"] == "gkd"
    assert {key.split("/")[0] for key in params} == {
        "gkd",
        "training",
        "teacher",
        "student",
        "lora",
        "study",
    }
    assert not [key for key in trial_params(trial_spec(method="sft")) if "teacher" in key]


def test_normalization_matters_on_policy_only() -> None:
    settings = trial_spec().settings
    assert "stock_normalization" in effective_settings("gkd", settings)
    assert "stock_normalization" not in effective_settings("supervised_kd", settings)


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("score/gsm8k:main", "score/gsm8k:main"),
        ("score/µ(x)", "score/__x_"),
        ("../up", "_/up"),
        ("/a//b", "_/a/_/b"),
    ],
)
def test_keys_are_valid_for_mlflow(name: str, key: str) -> None:
    from mlflow.utils import validation

    assert valid_key(name) == key
    validate: Callable[[str], None] = validation._validate_metric_name
    validate(key)


def test_values_read_like_yaml() -> None:
    assert [text_of(value) for value in (True, None, 2e-05, 8, "a", [1, 2])] == [
        "true",
        "null",
        "2e-05",
        "8",
        "a",
        "[1, 2]",
    ]
