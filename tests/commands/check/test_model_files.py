"""What ``check`` says of the files of models: weights without a place, and publishers' settings."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from sweeper.commands.check.data_step import data_check_of
from sweeper.commands.check.run_checks import judge
from sweeper.config.loading import load_study
from tests.support.trial_jobs import prepare


def test_what_is_in_a_models_files_and_not_followed_is_named(
    write_study: Callable[..., Path], tiny_teacher: str, tiny_student: str, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(tiny_student, tmp_path / "student"))
    weights = load_file(folder / "model.safetensors")
    weights["value_head.weight"] = torch.zeros(2)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    published = {"repetition_penalty": 1.1, "do_sample": True, "eos_token_id": 0}
    (folder / "generation_config.json").write_text(json.dumps(published), encoding="utf-8")
    models = {"teacher": {"model": tiny_teacher}, "student": {"model": str(folder)}}
    study = load_study(write_study(**models))
    outcome, _ = prepare(study, "data")
    found = {row.what: row for row in judge(study, data_check_of(outcome)).findings}
    assert found["weights"].state == "warning"
    assert "value_head.weight" in found["weights"].detail
    assert found["generation"].state == "ok"
    assert "student's own settings (do_sample True, repetition_penalty 1.1)" in (
        found["generation"].detail
    )
