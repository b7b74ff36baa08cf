"""The command line, run in a folder with the study ``tiny``, and what it leaves there."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from mlflow.tracking import MlflowClient


def sweeper(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "sweeper", *arguments]
    return subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=280)


def run(study: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    cache = str(study.parent / "cache")
    return sweeper(study.parent, "run", study.name, "--cache-dir", cache, *arguments)


def outcomes(directory: Path) -> dict[str, dict[str, Any]]:
    """The outcome of every trial, by ``arm/number``."""
    return {
        "/".join(path.parts[-3:-1]): json.loads(path.read_text())
        for path in sorted((directory / "runs" / "tiny" / "arms").glob("*/*/outcome.json"))
    }


def params(directory: Path) -> dict[str, dict[str, Any]]:
    return {
        "/".join(path.parts[-3:-1]): json.loads(path.read_text())["params"]
        for path in sorted((directory / "runs" / "tiny" / "arms").glob("*/*/spec.json"))
    }


def scores(directory: Path) -> dict[str, Any]:
    return {name: outcome["scores"]["score"] for name, outcome in outcomes(directory).items()}


def documents(directory: Path) -> dict[str, str]:
    root = directory / "runs" / "tiny" / "arms"
    return {
        "/".join(path.parts[-3:-1]): path.read_text()
        for path in sorted(root.glob("*/*/documents.jsonl"))
    }


def trial_runs(directory: Path) -> list[Any]:
    client = MlflowClient(f"sqlite:///{directory / 'runs' / 'mlflow.db'}")
    [experiment] = [e for e in client.search_experiments() if e.name == "tiny"]
    return [
        found
        for found in client.search_runs([experiment.experiment_id])
        if "sweeper.trial" in found.data.tags
    ]
