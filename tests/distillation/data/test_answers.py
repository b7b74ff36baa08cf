"""Answers that are trained: all of a conversation, each to its end token, in every arm."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sweeper.config.data import DataConfig
from sweeper.config.models import ModelConfig, StudentConfig
from sweeper.config.preparation import TeacherOutputsConfig
from sweeper.config.settings import MethodSettings
from sweeper.distillation.data.batches import IGNORED, PromptCollator, Rows
from sweeper.distillation.data.training_data import read_training_data
from sweeper.distillation.models.answer_ends import end_token_ids
from sweeper.distillation.teacher import outputs
from sweeper.distillation.teacher.shared_teacher import SharedTeacher
from sweeper.distillation.train import training_sequences
from sweeper.records import Resources, StudyInputs
from tests.support.chat_templates import OFF, template
from tests.support.tiny_models import make_tiny
from tests.support.training_jobs import make_study_inputs, train

TURNS = [
    {"role": role, "content": content}
    for question, answer in (("1+1?", "2"), ("And 2+2?", "4, so."), ("Bye", "Bye!"))
    for role, content in (("user", question), ("assistant", answer))
]


def study(folder: Path, kind: str = "qwen2", **changes: Any) -> StudyInputs:
    keys = changes.pop("data", {})
    path = folder / "rows.jsonl"
    lines = [{"messages": TURNS[:count]} for count in (2, 4, 6)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    text = changes.pop("template", "own")
    models = [
        make_tiny(folder / role, kind, seed=seed, template=text, spread=4.0)
        for seed, role in enumerate(("teacher", "student"))
    ]
    values: dict[str, Any] = {
        "teacher": ModelConfig(model=models[0], **changes.pop("of_teacher", {})),
        "student": StudentConfig(model=models[1]),
        "data": DataConfig.model_validate({"train": {"path": str(path)}, **keys}),
        "data_files": (str(path),),
        "teacher_outputs": TeacherOutputsConfig(max_new_tokens=6),
    }
    return make_study_inputs(folder, **{**values, **changes})


@pytest.fixture
def resources(tmp_path: Path) -> Resources:
    return Resources(directory=str(tmp_path), device="cpu", threads=1)


def test_labels_of_all_answers(tmp_path: Path) -> None:
    data = read_training_data(study(tmp_path, data={"assistant_turns": "all"}))
    # Once made, and once from the cache.
    assert data.tokens(400) == data.tokens(400)
    sequences = data.tokens(400).sequences
    batch = PromptCollator(0)([*Rows(sequences)])
    trained = [
        data.tokenizer.decode([token for token in row.tolist() if token != IGNORED])
        for row in batch["labels"]
    ]
    end = "<|im_end|>"
    assert trained == [f"2{end}", f"2{end}4, so.{end}", f"2{end}4, so.{end}Bye!{end}"]
    assert [sequence.trained for sequence in sequences] == [2, 9, 14]
    assert batch["rows"].sequences == sequences
    for sequence in sequences:  # a rollout answers the last turn
        assert data.tokenizer.decode(sequence.prompt).endswith("<|im_start|>assistant\n")


@pytest.mark.parametrize("method", ["sft", "supervised_kd", "gkd"])
def test_all_answers_are_trained_with_and_without_stored_states(
    method: Any, tmp_path: Path, resources: Resources
) -> None:
    counted = []
    for gib in (0.0, 1.0):
        inputs = study(tmp_path, data={"assistant_turns": "all"}, teacher_states_gib=gib)
        settings = {"per_device_train_batch_size": 3, "max_length": 400, "max_steps": 2}
        settings |= {"lmbda": 0.0} if method == "gkd" else {}
        _, meter, points = train(inputs, resources, method, **settings)
        assert meter.totals["trained_tokens"] == 2 * (2 + 9 + 14)
        counted.append([point["loss"] for point in points])
    assert counted[0] == pytest.approx(counted[1], rel=1e-4)


@pytest.mark.parametrize("kind", ["glm4", "qwen2", "llama3", "gemma", "mistral", "phi3", "gpt2"])
def test_every_arm_ends_its_answers(kind: str, tmp_path: Path, resources: Resources) -> None:
    data = read_training_data(study(tmp_path, kind))
    teacher = SharedTeacher(data.inputs, data.inputs.teacher, resources)
    model = teacher.load()
    ends = set(end_token_ids(model, data.tokenizer))
    model.generation_config.eos_token_id = list(range(model.config.vocab_size))
    teacher = replace(teacher, model=model)  # it stops at once, by whatever it writes
    last = {}
    for method in ("sft", "supervised_kd", "seqkd"):
        settings = MethodSettings(max_length=400)
        found = training_sequences(data, teacher, method, settings)  # type: ignore[arg-type]
        assert found.unended == (3 if kind == "glm4" and method != "seqkd" else 0)
        last[method] = {s.completion[-1] for s in found.sequences if s.completion}
        assert last[method] <= ends, method
    assert last["sft"] == last["supervised_kd"]
    assert len(last["sft"]) == 1
    if kind == "glm4":
        assert data.tokenizer.convert_ids_to_tokens(list(last["sft"])) == ["<|user|>"]


def test_a_teacher_answers_in_a_template_of_its_own(tmp_path: Path, resources: Resources) -> None:
    def asked(values: dict[str, Any] | None) -> tuple[str, int]:
        inputs = study(
            tmp_path,
            template=template("qwen3"),
            data={"chat_template_kwargs": OFF},
            of_teacher={"chat_template_kwargs": values},
        )
        data = read_training_data(inputs)
        outputs.get_or_compute(data, SharedTeacher(inputs, inputs.teacher, resources))
        text = data.asked_of(inputs.teacher).tokenizer.apply_chat_template(
            TURNS[:1], tokenize=False, add_generation_prompt=True
        )
        return text, len(list((tmp_path / "cache" / "teacher_outputs").glob("[!.]*")))

    closed, open_ended = "<think>\n\n</think>\n\n", "<|im_start|>assistant\n"
    (same, one), (own, two), (off, three) = asked(None), asked({}), asked(OFF)
    assert same.endswith(closed) and own.endswith(open_ended) and off.endswith(closed)
    assert (one, two, three) == (1, 2, 2)
