"""Trials in a shell that other programs have left variables and files in."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.trial_jobs import make_spec

_SCRIPT = """
import sys
from pathlib import Path
from sweeper.config.compute import ComputeConfig
from sweeper.execution.local import LocalExecutor
from sweeper.records import TrialSpec

spec = TrialSpec.model_validate_json(Path(sys.argv[1]).read_text())
with LocalExecutor(ComputeConfig(), ["cpu"]) as executor:
    executor.submit(spec)
    [done] = executor.wait(200)
    print(done.outcome.model_dump_json())
"""


def losses(study: Path, number: int, place: Path, **environment: str) -> list[float]:
    """The losses of one training as a job that is started in ``place``."""
    spec = make_spec(study, number).model_copy(update={"seed": 1})
    file = study.parent / f"{number}.json"
    file.write_text(spec.model_dump_json())
    done = subprocess.run(
        [sys.executable, "-P", "-c", _SCRIPT, str(file)],
        cwd=place,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=250,
    )
    assert done.returncode == 0, done.stderr
    outcome = json.loads(done.stdout.splitlines()[-1])
    assert outcome["state"] == "completed", outcome["failure"]
    lines = (Path(spec.place.directory) / "progress.jsonl").read_text().splitlines()
    metrics = [line["metrics"] for line in map(json.loads, lines) if "metrics" in line]
    return [values["loss"] for values in metrics if "loss" in values]


@pytest.mark.slow
def test_env_mixed_precision_env_world_size_and_cwd_shadows_library_change_nothing(
    write_study: Callable[..., Path], tmp_path: Path
) -> None:
    study = write_study()
    plain = losses(study, 0, tmp_path)
    assert plain
    crowded = tmp_path / "crowded"
    crowded.mkdir()
    for name in ("peft", "trl", "datasets", "optuna"):
        (crowded / f"{name}.py").write_text("raise SystemExit('imported from the directory')\n")
    launched = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2", "MASTER_PORT": "29533"}
    launched |= {"MASTER_ADDR": "127.0.0.1", "ACCELERATE_MIXED_PRECISION": "bf16"}
    launched |= {"USE_TF": "1", "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "4"}
    path = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), ""])) + os.pathsep
    assert losses(study, 1, crowded, PYTHONPATH=path, **launched) == plain
