"""The teachers, students and data that the benchmarks train on."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sweeper.config.data import DataConfig, DatasetConfig
from sweeper.config.evaluation import EvaluationConfig
from sweeper.config.models import ModelConfig, StudentConfig
from sweeper.config.preparation import TeacherOutputsConfig
from sweeper.config.settings import TrainingConfig
from sweeper.distillation.data.training_data import unpack_models
from sweeper.distillation.models.loading import load_tokenizer
from sweeper.foundation.cache import default_root
from sweeper.records import StudyInputs
from tests.support.tiny_studies import ROOT

GSM8K = ROOT / "tests" / "data" / "gsm8k-train.jsonl"
PROMPT_TOKENS, ANSWER_TOKENS = 45, 64


@dataclass(frozen=True)
class Pair:
    """A teacher and a student, with the sizes of their training steps."""

    name: str
    inputs: StudyInputs
    settings: dict[str, Any]
    """Settings of every training job."""


def make(name: str, folder: Path, threads: int, length: int | None = None) -> Pair:
    """Return the pair ``name``, with its data and cache below ``folder``.

    Args:
        name: quickstart or smollm2.
        folder: Where to write.
        threads: Of the CPU.
        length: Of all texts in tokens, half of them the answer's, in place of real ones' lengths.
    """
    if name == "quickstart":
        return _quickstart(folder, threads)
    return _smollm2(folder, threads, length)


def _quickstart(folder: Path, threads: int) -> Pair:
    # Whole windows: the stock sampler ends an epoch with a shorter one.
    data = DatasetConfig(path="builtin/addition", split="train", limit=6 * 32)
    inputs = _inputs("builtin/adder-teacher", StudentConfig(model="builtin/adder-student"), data)
    settings = {
        "per_device_train_batch_size": 32,
        "gradient_accumulation_steps": 1,
        "max_new_tokens": 48,
        "max_length": 128,
        "bf16": False,
    }
    return Pair("quickstart", _placed(inputs, folder, threads), settings)


def _smollm2(folder: Path, threads: int, length: int | None) -> Pair:
    teacher = "builtin/smollm2-135m-instruct"
    file = folder / f"rows-{length}.jsonl"
    student = StudentConfig(model=teacher, keep_layers=10)
    inputs = _inputs(teacher, student, DatasetConfig(path=str(file)))
    inputs = _placed(inputs, folder, threads).model_copy(update={"data_files": (str(file),)})
    # Real text, cut to equal sizes: 64 answer tokens to prompts of 45, through the chat template.
    tokenizer = load_tokenizer(unpack_models(inputs).teacher)
    rows: list[str] = []
    # One whole window, for the same reason.
    if length is not None:
        # Long enough to be cut to the length.
        words = tokenizer.decode([1000 + i % 4000 for i in range(2 * length)])
        rows = [json.dumps({"question": words[: 3 * length // 2], "answer": words})] * 32
    for line in GSM8K.read_text(encoding="utf-8").splitlines()[: 8 * 4 - len(rows)]:
        row = json.loads(line)
        cut = {
            key: tokenizer.decode(tokenizer(row[key])["input_ids"][:most])
            for key, most in (("question", PROMPT_TOKENS - 30), ("answer", ANSWER_TOKENS - 2))
        }
        rows.append(json.dumps(cut))
    file.write_text("\n".join(rows) + "\n", encoding="utf-8")
    settings = {
        "per_device_train_batch_size": 8,
        "gradient_accumulation_steps": 4,
        "max_new_tokens": ANSWER_TOKENS,
        "max_length": length or 512,
        "bf16": True,
    }
    return Pair("smollm2", inputs, settings)


def _inputs(teacher: str, student: StudentConfig, train: DatasetConfig) -> StudyInputs:
    return StudyInputs(
        study="benchmark",
        seed=1,
        teacher=ModelConfig(model=teacher),
        student=student,
        warm_start=None,
        data=DataConfig(train=train),
        teacher_outputs=TeacherOutputsConfig(),
        training=TrainingConfig(),
        evaluation=EvaluationConfig(selection="none"),
        cache=str(default_root()),
    )


def _placed(inputs: StudyInputs, folder: Path, threads: int) -> StudyInputs:
    return inputs.model_copy(update={"cache": str(folder / "cache"), "cache_threads": threads})
