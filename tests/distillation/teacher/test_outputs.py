"""Which studies share the teacher's stored answers, and which must not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import normalizers, pre_tokenizers
from transformers import AutoTokenizer

from sweeper.config.data import DataConfig, DatasetConfig
from sweeper.config.models import ModelConfig, StudentConfig
from sweeper.config.preparation import TeacherOutputsConfig
from sweeper.config.settings import TrainingConfig
from sweeper.distillation.data.conversations import Example
from sweeper.distillation.data.training_data import TrainingData
from sweeper.distillation.models.loading import load_tokenizer
from sweeper.distillation.teacher import outputs
from sweeper.distillation.teacher.shared_teacher import SharedTeacher
from sweeper.records import Resources, StudyInputs
from tests.support.tiny_studies import make_model
from tests.support.training_jobs import make_study_inputs

Answers = list[tuple[int, ...]]
EXAMPLES = [
    Example(({"role": "user", "content": text},), None) for text in ("1+2?", "a\nlonger one")
]


@pytest.fixture
def resources(tmp_path: Path) -> Resources:
    return Resources(directory=str(tmp_path), device="cpu", threads=1)


@pytest.fixture
def inputs(tmp_path: Path, tiny_teacher: str, tiny_student: str) -> StudyInputs:
    return make_study_inputs(
        tmp_path,
        teacher=ModelConfig(model=tiny_teacher),
        student=StudentConfig(model=tiny_student),
        data=DataConfig(train=DatasetConfig(path="rows.jsonl")),
        teacher_outputs=TeacherOutputsConfig(max_new_tokens=6),
    )


def answers(
    inputs: StudyInputs, resources: Resources, tokenizer: Any = None, **changes: Any
) -> Answers:
    examples = changes.pop("examples", EXAMPLES)
    changed = inputs.model_copy(update=changes)
    tokenizer = tokenizer or load_tokenizer(changed.student)
    rows = [{"prompt": example.prompt} for example in examples]
    file = Path(resources.directory) / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    changed = changed.model_copy(update={"data_files": (str(file),)})
    return outputs.get_or_compute(
        TrainingData(changed, tokenizer), SharedTeacher(changed, changed.teacher, resources)
    )


def entries(inputs: StudyInputs) -> int:
    return len(list((Path(inputs.cache) / "teacher_outputs").glob("[!.]*")))


def test_studies_that_ask_the_same_share_the_answers(
    inputs: StudyInputs, resources: Resources, tmp_path: Path
) -> None:
    first = answers(inputs, resources)
    assert [len(answer) for answer in first] == [6, 6]
    copied = make_model(tmp_path / "copied", layers=2, width=32, seed=1)
    other = make_model(tmp_path / "other", layers=3, width=8, seed=9)
    same: list[dict[str, Any]] = [
        {},
        {"study": "another", "training": TrainingConfig(max_steps=7)},
        {"teacher": ModelConfig(model=copied)},
        {"student": StudentConfig(model=other)},
        # Greedy answers do not depend on the seed.
        {"seed": 2},
    ]
    for changes in same:
        assert answers(inputs, resources, **changes) == first
    assert entries(inputs) == 1


def test_whatever_changes_the_answers_asks_again(
    inputs: StudyInputs, resources: Resources, tmp_path: Path
) -> None:
    first = answers(inputs, resources)
    other = make_model(tmp_path / "other", layers=2, width=32, seed=5)
    longer = TeacherOutputsConfig(max_new_tokens=9)
    sampled = TeacherOutputsConfig(max_new_tokens=6, temperature=2.0)
    changes: list[dict[str, Any]] = [
        {"teacher": ModelConfig(model=other)},
        {"teacher": ModelConfig(model=other, dtype="bfloat16")},
        {"teacher_outputs": longer},
        {"teacher_outputs": sampled},
        {"teacher_outputs": sampled, "seed": 2},
        {"examples": EXAMPLES[:1]},
        {"examples": EXAMPLES[::-1]},
        {"cache_threads": 2},
    ]
    found = [answers(inputs, resources, **change) for change in changes]
    assert entries(inputs) == 1 + len(changes)
    _, _, long, hot, reseeded, fewer, reversed_, _ = found
    assert len({tuple(one) for one in (first, hot, reseeded)}) == 3
    assert [answer[:6] for answer in long] == first
    assert (fewer, reversed_) == (first[:1], first[::-1])


def test_another_tokenizer_template_or_padding_asks_again(
    inputs: StudyInputs, resources: Resources, tiny_student: str
) -> None:
    def changed(change: Any) -> Any:
        tokenizer = AutoTokenizer.from_pretrained(tiny_student)
        change(tokenizer)
        return tokenizer

    def splits(tokenizer: Any) -> None:
        pieces = pre_tokenizers.ByteLevel(add_prefix_space=True)
        tokenizer.backend_tokenizer.pre_tokenizer = pieces

    def reads(tokenizer: Any) -> None:
        tokenizer.backend_tokenizer.normalizer = normalizers.Lowercase()

    def says(tokenizer: Any) -> None:
        tokenizer.chat_template = tokenizer.chat_template.replace("assistant", "helper")

    def pads(tokenizer: Any) -> None:
        tokenizer.pad_token = "<|im_start|>"

    def ends(tokenizer: Any) -> None:
        tokenizer.eos_token = "<|im_start|>"

    answers(inputs, resources)
    answers(inputs, resources, changed(lambda tokenizer: None))
    assert entries(inputs) == 1
    for count, change in enumerate((splits, reads, says, pads, ends), start=2):
        answers(inputs, resources, changed(change))
        assert entries(inputs) == count, change.__name__
    plain = load_tokenizer(inputs.student, plain=True)
    answers(inputs, resources, plain)
    assert entries(inputs) == 7
