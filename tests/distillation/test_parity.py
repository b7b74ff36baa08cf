"""The one trainer of sweeper against TRL's three, as they are, on the same sequences.

Every step sees all rows, so neither order nor batching matters; what is left is the loss, its
gradient and the optimiser.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset

from sweeper.config.data import DataConfig, DatasetConfig
from sweeper.config.models import ModelConfig, StudentConfig
from sweeper.config.settings import Method, MethodSettings, effective
from sweeper.distillation.data.examples import TokenSequence
from sweeper.distillation.data.training_data import read_training_data
from sweeper.distillation.models.loading import load_model
from sweeper.distillation.start import starting_student
from sweeper.distillation.train import TrainingJob, distil, training_sequences
from sweeper.records import Resources
from tests.support.training_jobs import make_study_inputs

pytestmark = pytest.mark.slow

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from trl import DistillationConfig, DistillationTrainer, SFTConfig, SFTTrainer
    from trl.experimental.gkd import GKDConfig, GKDTrainer

ROWS, STEPS, RATE, TEMPERATURE = 8, 20, 2e-3, 0.9
COMMON: dict[str, Any] = {
    "max_steps": STEPS,
    "per_device_train_batch_size": ROWS,
    "learning_rate": RATE,
    "lr_scheduler_type": "linear",
    "max_grad_norm": 1.0,
    "logging_steps": 1,
    "use_cpu": True,
    "bf16": False,
    "report_to": "none",
    "save_strategy": "no",
    "disable_tqdm": True,
}


class Curve:
    """The losses that a trainer of TRL's logs."""

    def __init__(self, trainer: Any) -> None:
        trainer.train()
        self.losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]


@pytest.fixture(scope="module")
def resources(tmp_path_factory: pytest.TempPathFactory) -> Resources:
    return Resources(directory=str(tmp_path_factory.mktemp("job")), device="cpu", threads=1)


@pytest.mark.parametrize(
    ("stock", "method", "beta"),
    [
        ("SFTTrainer", "sft", 0.0),
        ("GKDTrainer", "supervised_kd", 0.0),
        ("GKDTrainer", "gkd", 0.5),
        ("GKDTrainer", "gkd", 1.0),
        ("DistillationTrainer", "gkd", 0.0),
        ("DistillationTrainer", "gkd", 0.5),
        ("DistillationTrainer", "gkd", 1.0),
    ],
)
def test_losses_are_those_of_trl(
    stock: str, method: Method, beta: float, resources: Resources, tmp_path: Path
) -> None:
    inputs = make_study_inputs(
        tmp_path,
        student=StudentConfig(model="builtin/adder-student", random_init=True),
        data=DataConfig(train=DatasetConfig(path="builtin/addition", limit=ROWS)),
    )
    data = read_training_data(inputs)
    values: dict[str, Any] = {
        name: COMMON[name]
        for name in ("max_steps", "learning_rate", "lr_scheduler_type", "max_grad_norm")
    }
    settings = effective(
        method,
        MethodSettings(
            **values,
            per_device_train_batch_size=ROWS,
            logging_steps=1,
            max_length=128,
            warmup_ratio=0.0,
            length_bucketing=False,
            **({"beta": beta, "lmbda": 0.0} if method == "gkd" else {}),
        ),
    )
    points: list[dict[str, float]] = []
    job = TrainingJob(
        data=data,
        resources=resources,
        model=starting_student(data, resources),
        teacher=inputs.teacher,
        method=method,
        settings=settings,
        seed=1,
        report=lambda step, total, metrics: points.append(metrics),
    )
    distil(job)
    ours = [point["loss"] for point in points]
    sequences = training_sequences(data, job.shared_teacher, method, settings).sequences
    start = starting_student(data, resources)
    teacher = load_model(ModelConfig(model=inputs.teacher.model, dtype="float32"), "cpu")
    theirs = RIVALS[stock](start, teacher, sequences, data.tokenizer, beta, tmp_path)

    assert len(ours) == len(theirs) == STEPS
    assert ours[0] > 1.1 * ours[-1]
    assert ours == pytest.approx(theirs, rel=1e-3, abs=1e-4)


def sft(student: Any, _: Any, sequences: Any, tokenizer: Any, beta: float, folder: Path) -> Any:
    rows = [
        {
            "input_ids": [*one.prompt, *one.completion],
            "labels": [*[-100] * len(one.prompt), *one.completion],
        }
        for one in sequences
    ]
    arguments = SFTConfig(
        str(folder / "trl"),
        activation_checkpointing=False,
        dataset_kwargs={"skip_prepare_dataset": True},
        **COMMON,
    )
    return Curve(
        SFTTrainer(
            student, arguments, train_dataset=Dataset.from_list(rows), processing_class=tokenizer
        )
    ).losses


def gkd(student: Any, teacher: Any, sequences: Any, tokenizer: Any, beta: float, at: Path) -> Any:
    def collate(rows: list[dict[str, Any]]) -> Any:
        from sweeper.distillation.data.batches import PromptCollator

        batch = PromptCollator(tokenizer.pad_token_id)(
            [
                (index, TokenSequence(tuple(row["prompt"]), tuple(row["completion"])))
                for index, row in enumerate(rows)
            ]
        )
        # Its loss leaves out what is before the longest prompt; of prompts of one length, that is
        # the prompts.
        import torch

        assert len({len(row["prompt"]) for row in rows}) == 1
        return {
            **{name: batch[name] for name in ("input_ids", "attention_mask", "labels")},
            "prompts": torch.tensor([row["prompt"] for row in rows]),
        }

    arguments = GKDConfig(
        str(at / "trl"),
        activation_checkpointing=False,
        lmbda=0.0,
        beta=beta,
        seq_kd=False,
        disable_dropout=True,
        **COMMON,
    )
    rows = [{"prompt": list(one.prompt), "completion": list(one.completion)} for one in sequences]
    return Curve(
        GKDTrainer(
            student,
            teacher,
            arguments,
            data_collator=collate,
            train_dataset=Dataset.from_list(rows),
            processing_class=tokenizer,
        )
    ).losses


def distillation(
    student: Any, teacher: Any, sequences: Any, tokenizer: Any, beta: float, at: Path
) -> Any:
    answers = {one.prompt: list(one.completion) for one in sequences}

    class Told(DistillationTrainer):  # type: ignore[misc]
        """Samples what it is told."""

        def _generate_single_turn(self, prompt_ids: Any, *args: Any, **kwargs: Any) -> Any:
            return [answers[tuple(map(int, ids))] for ids in prompt_ids]

        def _tokenize_prompts(self, prompts: Any) -> Any:
            ids = [list(sequences[int(prompt)].prompt) for prompt in prompts]
            return ids, None, {}

    arguments = DistillationConfig(
        str(at / "trl"),
        activation_checkpointing=False,
        beta=beta,
        temperature=1.0,
        max_completion_length=64,
        **COMMON,
    )
    rows = [{"prompt": str(index)} for index in range(len(sequences))]
    return Curve(
        Told(
            model=student,
            teacher_model=teacher,
            args=arguments,
            train_dataset=Dataset.from_list(rows),
            processing_class=tokenizer,
        )
    ).losses


RIVALS = {"SFTTrainer": sft, "GKDTrainer": gkd, "DistillationTrainer": distillation}
