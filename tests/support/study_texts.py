"""A small right study file as text, which tests break in one place."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from sweeper.config.loading import LoadedStudy, load_study
from sweeper.foundation.errors import ConfigError, Problem

STUDY = """\
study: tiny
seed: 3
trials: 4
teacher: {model: builtin/adder-teacher}
student: {model: builtin/adder-student}
warm_start: {method: sft, max_steps: 5}
data:
  train: {path: builtin/addition, limit: 24}
training:
  max_steps: 4
  learning_rate: 1.0e-3
arms:
  gkd:
    settings: {max_new_tokens: 8}
    search:
      lmbda: {type: categorical, choices: [0.0, 0.5]}
      beta: {type: float, low: 0.1, high: 0.9}
  sft:
    search:
      learning_rate: {type: float, low: 1.0e-4, high: 1.0e-2, log: true}
evaluation:
  selection: selection.yaml
  test: test.yaml
"""
SUITE = """\
suite: SUITE
tasks:
  - {task: addition, documents: [0, 12]}
"""


def load(folder: Path, text: str | bytes = STUDY, overrides: Sequence[str] = ()) -> LoadedStudy:
    path = folder / "study.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return load_study(path, overrides)


def problems(
    folder: Path, text: str | bytes = STUDY, overrides: Sequence[str] = ()
) -> tuple[Problem, ...]:
    with pytest.raises(ConfigError) as caught:
        load(folder, text, overrides)
    assert caught.value.exit_code == 2
    return caught.value.problems


def edit(old: str, new: str, text: str = STUDY) -> str:
    assert text.count(old) == 1, old
    return text.replace(old, new)


def place_of(text: str, mark: str) -> tuple[int, int]:
    before = text[: text.index(mark)]
    return before.count("\n") + 1, len(before) - before.rfind("\n")
