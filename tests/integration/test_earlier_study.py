"""A study that version 0.1 recorded is reported, resumed and compared as it was then."""

from __future__ import annotations

import json
import re
import sqlite3
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import optuna
import pytest

from sweeper.records import Scores
from tests.support.study_folders import sweeper
from tests.support.tiny_studies import DATA

RECORDED = DATA / "earlier_study"
FOLDER = "/tmp/fixture/study"
"""Where it was recorded."""
LEFT = {"gkd/0001", "sft/0000", "sft/0001"}
"""Confirmation runs that had not begun when the study was killed."""
DELETED = {"p_permutation", "p_mcnemar"}
"""Keys of a report in JSON that a later version need not have."""
SHORTENED = {"advice", "importance", "effects", "realised", "poor_quality"}
"""Sections of it that a later version may word and cut as it likes."""


def unpack(name: str, folder: Path) -> Path:
    """Unpack a recorded study, as if it had been recorded in ``folder``."""
    with tarfile.open(RECORDED / f"{name}.tar.gz") as archive:
        archive.extractall(folder, filter="data")
    # MLflow keeps the absolute folder of its artifacts.
    with sqlite3.connect(folder / "runs" / "mlflow.db") as connection:
        for table, column in (("experiments", "artifact_location"), ("runs", "artifact_uri")):
            connection.execute(
                f"update {table} set {column} = replace({column}, ?, ?)",
                (f"file://{FOLDER}", folder.as_uri()),
            )
    connection.close()
    return folder


def outcomes(folder: Path, kind: str) -> dict[str, bytes]:
    """The bytes of every outcome of that kind of job, by ``arm/number``."""
    found = sorted((folder / "runs" / "earlier" / kind).glob("*/*/outcome.json"))
    return {"/".join(path.parts[-3:-1]): path.read_bytes() for path in found}


def results(folder: Path) -> dict[str, Any]:
    """The scores of every trial and confirmation run on both suites."""
    found = {}
    for kind in ("arms", "finals"):
        for name, content in outcomes(folder, kind).items():
            outcome = json.loads(content)
            assert outcome["state"] == "completed", outcome["failure"]
            for suite in ("scores", "test_scores"):
                if outcome[suite] is not None:
                    # What a later version records on top has the default of an earlier study.
                    scores = Scores.model_validate({**outcome[suite], "seconds": 0.0})
                    found[kind, name, suite] = scores.model_dump()
    return found


def optuna_trials(folder: Path) -> dict[str, list[Any]]:
    """What Optuna has of each arm."""
    storage = f"sqlite:///{folder / 'runs' / 'earlier' / 'study.db'}"
    return {
        study.study_name: [
            (trial.number, trial.state.name, trial.value, trial.params)
            for trial in optuna.load_study(study_name=study.study_name, storage=storage).trials
        ]
        for study in optuna.get_all_study_summaries(storage)
    }


def mlflow_runs(folder: Path) -> dict[str, tuple[str, str]]:
    """Name and status of MLflow's runs, by id."""
    with sqlite3.connect(folder / "runs" / "mlflow.db") as connection:
        rows = connection.execute("select run_uuid, name, status from runs").fetchall()
    connection.close()
    return {uuid: (name, status) for uuid, name, status in rows}


def values(document: Any, path: str = "") -> dict[str, Any]:
    """The leaves of a JSON document but for sentences, by path."""
    if isinstance(document, dict | list):
        pairs = document.items() if isinstance(document, dict) else enumerate(document)
        leaves: dict[str, Any] = {}
        for key, value in pairs:
            leaves |= values(value, f"{path}/{key}")
        return leaves
    return {} if isinstance(document, str) and re.search(r"\s", document) else {path: document}


def compared(document: dict[str, Any]) -> dict[str, Any]:
    """The leaves of a report in JSON that no version may change."""
    return {
        path: value
        for path, value in values(document).items()
        if path.split("/")[1] not in SHORTENED and path.rsplit("/", 1)[1] not in DELETED
    }


def number_rows(report: str) -> list[list[str]]:
    """The numbers of every row of a report's tables, but for the advice and the versions."""
    kept = re.sub(r"(?ms)^## (Common advice|Reproduction).*?(?=^## |\Z)", "", report)
    rows = []
    for line in kept.splitlines():
        if line.startswith("| ") and (cells := re.split(r"(?<!\\)\|", line)[1:-1]):
            # Columns after the adjusted p are those of other tests.
            cells = cells[:7] if len(cells) == 10 else cells
            rows.append(re.findall(r"[-+]?\d+(?:\.\d+)?(?:e-?\d+)?", " ".join(cells)))
    return [row for row in rows if row]


def checked(ended: subprocess.CompletedProcess[str]) -> str:
    """The output of a command that succeeded."""
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "Traceback" not in ended.stderr
    return ended.stdout


@pytest.mark.slow
def test_it_is_reported_with_the_same_numbers(tmp_path: Path) -> None:
    folder = unpack("finished", tmp_path / "finished")
    report = folder / "reports" / "earlier" / "report.md"
    before = number_rows(report.read_text(encoding="utf-8"))
    assert len(before) > 30
    report.unlink()

    told = json.loads(checked(sweeper(folder, "report", "study.yaml", "--json")))
    known = json.loads((RECORDED / "report.json").read_text(encoding="utf-8"))
    assert len(compared(known)) == 149
    assert compared(told).items() >= compared(known).items()

    checked(sweeper(folder, "report", "study.yaml"))
    after = number_rows(report.read_text(encoding="utf-8"))
    assert [row for row in before if row not in after] == []
    assert "4 of 4 trials completed" in checked(sweeper(folder, "status", "study.yaml"))


@pytest.mark.soak
def test_it_is_resumed_where_it_was_killed(tmp_path: Path) -> None:
    finished = unpack("finished", tmp_path / "finished")
    resumed = unpack("interrupted", tmp_path / "resumed")
    trials, confirmed = outcomes(resumed, "arms"), outcomes(resumed, "finals")
    tracked = mlflow_runs(resumed)
    assert (len(trials), set(confirmed)) == (4, {"gkd/0000"})

    checked(sweeper(resumed, "run", "study.yaml", "--cache-dir", "cache"))

    assert outcomes(resumed, "arms") == trials
    assert set(outcomes(resumed, "finals")) == {*confirmed, *LEFT}
    assert outcomes(resumed, "finals")["gkd/0000"] == confirmed["gkd/0000"]
    assert results(resumed) == results(finished)
    assert optuna_trials(resumed) == optuna_trials(finished)
    runs = mlflow_runs(resumed)
    assert set(runs) >= set(tracked)
    assert sorted(runs.values()) == sorted(mlflow_runs(finished).values())
    assert len({name for name, _ in runs.values()}) == len(runs)
    assert {status for _, status in runs.values()} == {"FINISHED"}
    artifacts = resumed / "runs" / "mlflow-artifacts"
    assert len(list(artifacts.glob("*/artifacts/test_documents.jsonl"))) == 4

    assert "4 of 4 confirmation runs completed" in checked(sweeper(resumed, "status", "study.yaml"))
    told = json.loads(checked(sweeper(resumed, "report", "study.yaml", "--json")))
    known = json.loads((RECORDED / "report.json").read_text(encoding="utf-8"))
    for section in ("verdicts", "teacher_lead", "leaders", "best_gkd", "best_offline", "tasks"):
        assert compared({section: told[section]}) == compared({section: known[section]})

    studies = [str(folder / "runs" / "earlier") for folder in (finished, resumed)]
    again = sweeper(tmp_path, "compare", *studies)
    assert again.returncode == 2
    assert "expected another study" in again.stderr
    # What tells two studies of one name apart.
    manifest = resumed / "runs" / "earlier" / "study.json"
    content = json.loads(manifest.read_text(encoding="utf-8"))
    content["provenance"]["started"] += 1
    manifest.write_text(json.dumps(content), encoding="utf-8")
    comparison = json.loads(checked(sweeper(tmp_path, "compare", *studies, "--json")))
    first, second = comparison["studies"]
    assert first["pairs"] == second["pairs"] != []
    assert comparison["different"] == []
