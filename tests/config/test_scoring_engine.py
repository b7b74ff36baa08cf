"""Scores by vLLM: what a study needs for them, and what is refused at its key."""

from __future__ import annotations

from pathlib import Path

import pytest

from sweeper.config.scoring_engine import teacher_is_scored
from tests.support.study_texts import edit, load, problems

STUDY = """\
study: tiny
teacher: {model: builtin/adder-teacher, dtype: float32, server: {start: vllm}}
student: {model: builtin/adder-student}
data: {train: {path: builtin/addition, limit: 24}}
confirm: {seeds: 5}
arms:
  seqkd: {}
  sft: {}
compare: [[seqkd, teacher], [seqkd, sft]]
evaluation: {engine: vllm, selection: selection.yaml, test: test.yaml}
"""
STARTED = "dtype: float32, server: {start: vllm}"
ELSEWHERE = "server: {url: 'https://host/v1', api: vllm}"


@pytest.mark.parametrize("teacher", [STARTED, STARTED.replace("float32", "bfloat16"), ELSEWHERE])
def test_a_teacher_behind_vllm_is_scored_and_may_be_compared_with(
    folder: Path, teacher: str
) -> None:
    config = load(folder, edit(STARTED, teacher, STUDY)).config
    assert teacher_is_scored(config.teacher, config.evaluation)


@pytest.mark.parametrize(
    ("old", "new", "place", "message"),
    [
        (STARTED, "dtype: float32", "evaluation.engine", "Write teacher.server: {start: vllm}"),
        ("float32", "auto", "teacher.dtype", "expected float32, which models are scored in"),
        ("engine: vllm, ", "engine: vllm, dtype: bfloat16, ", "teacher.dtype", "found float32"),
        (STARTED, ELSEWHERE.replace("vllm", "chat"), "compare.0", "has no score"),
        ("engine: vllm, ", "", "compare.0", "has no score without evaluation.engine: vllm"),
        ("engine: vllm", "engine: sglang", "evaluation.engine", "'transformers' or 'vllm'"),
    ],
)
def test_what_it_cannot_do_is_refused(
    folder: Path, old: str, new: str, place: str, message: str
) -> None:
    [problem] = problems(folder, edit(old, new, STUDY))
    assert problem.path == place
    assert message in problem.message


def test_the_suites_are_others_by_another_engine(folder: Path) -> None:
    study = load(folder, STUDY)
    assert (study.selection.engine, study.test and study.test.engine) == ("vllm", "vllm")
