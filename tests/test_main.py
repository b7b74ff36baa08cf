"""Starting the command line in a folder whose files have the names of libraries."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.tiny_studies import ROOT

CONSOLE_SCRIPT = (
    "import sys; from sweeper.__main__ import main; sys.argv = ['sweeper', *sys.argv[1:]]; main()"
)


@pytest.mark.parametrize(
    "start", [["-m", "sweeper"], ["-P", "-c", CONSOLE_SCRIPT]], ids=["module", "script"]
)
@pytest.mark.parametrize("path", [f":{ROOT}", f"{ROOT}:"])
def test_cwd_shadows_library_in_no_command(start: list[str], path: str, tmp_path: Path) -> None:
    for name in ("typer", "pydantic", "ruamel", "optuna"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('of the working directory')\n")
    done = subprocess.run(
        [sys.executable, *start, "schema"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("{")


@pytest.mark.parametrize(
    ("given", "expected"), [(None, "PCI_BUS_ID"), ("FASTEST_FIRST", "FASTEST_FIRST")]
)
def test_gpus_are_counted_as_the_driver_does_unless_the_user_says_otherwise(
    given: str | None, expected: str
) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CUDA")}
    if given is not None:
        environment["CUDA_DEVICE_ORDER"] = given
    tell = "import atexit, os; atexit.register(lambda: print(os.environ['CUDA_DEVICE_ORDER']));"
    done = subprocess.run(
        [sys.executable, "-c", f"{tell} {CONSOLE_SCRIPT}", "--help"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0
    assert done.stdout.splitlines()[-1] == expected


def test_a_directory_that_pythonpath_names_is_used(tmp_path: Path) -> None:
    (tmp_path / "typer.py").write_text("raise SystemExit('named')\n")
    done = subprocess.run(
        [sys.executable, "-m", "sweeper", "schema"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr.strip()) == (1, "named")
