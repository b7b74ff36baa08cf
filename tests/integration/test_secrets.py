"""Planted secrets, whole studies, and then a search through every byte that they left."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.tiny_studies import write_yaml

pytestmark = pytest.mark.slow

IN_ENVIRONMENT = "hf_EnvironmentEnvironmentEnviron"
IN_FILE = "plainly-a-secret-of-the-file"
IN_OPTION = "secret with spaces of an option"
IN_ARM = "hf_ArmArmArmArmArmArmArmArmArm"
IN_DATA = "data-url-passw0rd"
IN_URI = "tracking-url-passw0rd"
EVERY = (IN_ENVIRONMENT, IN_FILE, IN_OPTION, IN_ARM, IN_DATA, IN_URI)


def run(study: Path, *arguments: str, command: str = "run") -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "sweeper", command, study.name]
    if command == "run":
        line += ["--cache-dir", "cache"]
    environment = {**os.environ, "HF_TOKEN": IN_ENVIRONMENT, "COLUMNS": "500"}
    return subprocess.run(
        [*line, *arguments],
        cwd=study.parent,
        env=environment,
        capture_output=True,
        text=True,
        timeout=280,
    )


def leaks(folder: Path, *streams: str) -> list[str]:
    """Where a secret stands: files below ``folder`` other than the user's own, or streams."""
    found = []
    for path in folder.rglob("*"):
        if path.is_file() and path.parent != folder:
            content = path.read_bytes()
            found += [f"{path}: {s}" for s in EVERY if s.encode() in content]
    for stream in streams:
        found += [f"output: {s}" for s in EVERY if s in stream]
    return found


def test_secrets_stay_where_the_user_put_them(write_study: Callable[..., Path]) -> None:
    teacher = {"model": "builtin/adder-teacher", "init_kwargs": {"token": IN_FILE}}
    arms = {
        "gkd": {"settings": {"max_new_tokens": 8, "teacher.init_kwargs.token": IN_ARM}},
        "sft": {},
    }
    option = ("--set", f"student.init_kwargs.token={IN_OPTION}")
    study = write_study(teacher=teacher, arms=arms, trials=1)
    folder = study.parent
    done = run(study, *option)
    assert done.returncode == 0, done.stderr
    spec = folder / "runs" / "tiny" / "arms" / "gkd" / "0000" / "spec.json"
    assert '"init_kwargs.token": "***"' in spec.read_text()
    assert list(folder.glob("runs/mlflow-artifacts/**/spec.json"))
    # A new token continues the study, and what is recorded is enough to do so.
    again = run(study, "--set", "student.init_kwargs.token=another-secret", "--set", "trials=2")
    assert again.returncode == 0, again.stderr
    status = run(study, command="status")
    assert "1 of" in status.stdout or "2 of" in status.stdout
    outputs = [done.stdout, done.stderr, again.stdout, again.stderr, status.stdout]
    assert leaks(folder, *outputs) == []

    # Places that cannot be reached are named, without what opens them.
    data = {"train": {"path": f"https://me:{IN_DATA}@127.0.0.1:9/rows"}}
    write_yaml(folder / "data.yaml", {**_values(study), "study": "data", "data": data})
    unread = run(folder / "data.yaml")
    assert unread.returncode == 2
    assert "127.0.0.1:9/rows" in unread.stderr
    uri = f"tracking.uri=postgresql://me:{IN_URI}@127.0.0.1:9/db"
    unreachable = run(study, *option, "--set", uri, "--set", "study=elsewhere")
    assert unreachable.returncode == 1
    assert "://me:***@127.0.0.1:9/db" in unreachable.stderr
    wrong = run(study, "--set", f"tracking=postgresql://me:{IN_URI}@127.0.0.1:9/db")
    assert wrong.returncode == 2
    every = [text for end in (unread, unreachable, wrong) for text in (end.stdout, end.stderr)]
    assert "Traceback" not in "".join(every)
    assert leaks(folder, *every) == []


def _values(study: Path) -> dict[str, object]:
    from ruamel.yaml import YAML

    values: dict[str, object] = YAML(typ="safe", pure=True).load(study.read_text())
    return values
