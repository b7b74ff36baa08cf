"""The same weights have the same score: before, in and after a training, and as exported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from sweeper.config.base import ScoringDtype
from sweeper.config.evaluation import EvaluationConfig
from sweeper.config.models import LoraConfig, ModelConfig, StudentConfig
from sweeper.config.suite import SuiteConfig, SuiteTask
from sweeper.distillation.data.training_data import TrainingData, read_training_data
from sweeper.distillation.models.saving import save_student
from sweeper.distillation.start import starting_student
from sweeper.distillation.teacher import kl_probe
from sweeper.distillation.teacher.shared_teacher import SharedTeacher
from sweeper.execution.worker.progress import ProgressWriter
from sweeper.execution.worker.scoring import evaluate
from sweeper.records import KeptStudent, PreparationSpec, Resources, StudyInputs, SuiteSpec
from sweeper.records.layout import JobPaths
from tests.support.tiny_models import make_tiny
from tests.support.tiny_studies import ROOT
from tests.support.training_jobs import make_study_inputs, train

UNMOVED = 1e-30
"""A learning rate that moves no weight."""
LORA = {"lora": LoraConfig(r=2)}
STUDENTS: dict[str, dict[str, Any]] = {
    "whole": {},
    "whole, 16 bits": {"dtype": "bfloat16"},
    "layer-cut": {"keep_layers": 2},
    "LoRA": LORA,
    "LoRA, 16 bits": {"dtype": "bfloat16", **LORA},
    "QLoRA int8": {"quantization": "int8", **LORA},
    "QLoRA int4": {"quantization": "int4", **LORA},
}
TRAININGS: dict[str, dict[str, Any]] = {
    "sft": {"method": "sft"},
    "gkd": {"method": "gkd", "lmbda": 1.0, "max_new_tokens": 4},
    "trl": {"method": "gkd", "lmbda": 0.0, "engine": "trl"},
}
CASES = [
    *((student, "gkd") for student in STUDENTS),
    *(("whole", training) for training in ("sft", "trl")),
]
FAST = (("whole", "gkd"),)


def suite() -> SuiteSpec:
    """A suite whose score shows any difference: nats per byte."""
    task = SuiteTask(task="texts", documents=(0, 2), metric="byte_perplexity")
    directory = str(ROOT / "eval_suites" / "smollm2" / "tasks")
    config = SuiteConfig(suite="s", tasks=(task,))
    return SuiteSpec(config=config, task_directories=(directory,), content_hash="h")


def score(inputs: StudyInputs, data: TrainingData, model: Any, dtype: ScoringDtype) -> float:
    """The score that any job gives the model."""
    evaluation = EvaluationConfig(selection="s.yaml", dtype=dtype)
    spec = PreparationSpec(
        step="student",
        origin=inputs.model_copy(update={"evaluation": evaluation}),
        needs_teacher_outputs=False,
        suite=suite(),
        test_suite=None,
        place=Resources(directory=".", device="cpu", threads=1),
    )
    progress = ProgressWriter(JobPaths(Path(".")), silent=True)
    found = evaluate(spec, model, data, spec.suite, progress)
    assert found.scores.dtype == dtype
    return found.scores.score


def make_inputs(folder: Path, scored_in: ScoringDtype, **student: Any) -> StudyInputs:
    model = make_tiny(folder / "model", layers=3, width=64, spread=3.0)
    if "dtype" in student:  # as most publishers store their models
        AutoModelForCausalLM.from_pretrained(model, dtype=torch.bfloat16).save_pretrained(model)
    return make_study_inputs(
        folder,
        teacher=ModelConfig(model=make_tiny(folder / "teacher", width=64, spread=3.0, seed=1)),
        student=StudentConfig(model=model, **student),
        evaluation=EvaluationConfig(selection="s.yaml", dtype=scored_in),
    )


@pytest.mark.parametrize(
    ("student", "training"),
    [pytest.param(*case, marks=[] if case in FAST else pytest.mark.slow) for case in CASES],
)
def test_unchanged_weights_have_the_score_of_the_start(
    student: str, training: str, tmp_path: Path
) -> None:
    """Also after a training in autocast, which accelerate leaves around the model's forward."""
    inputs = make_inputs(tmp_path, "float32", **STUDENTS[student])
    data = read_training_data(inputs)
    resources = Resources(directory=str(tmp_path), device="cpu", threads=1)
    teacher = SharedTeacher(inputs, inputs.teacher, resources)
    probe = kl_probe.read(kl_probe.prepare(data, teacher, ["one?", "two?"]))
    assert probe is not None
    dtypes: tuple[ScoringDtype, ...] = ("float32", "bfloat16")
    start = starting_student(data, resources)
    expected = [score(inputs, data, start, dtype) for dtype in dtypes]
    assert expected[0] != expected[1]
    distance = probe.divergence(start)
    seen: list[list[float]] = []

    def pause(step: int, model: Any) -> bool:
        before = [weights.clone() for weights in model.parameters()]
        seen.append([score(inputs, data, model, dtype) for dtype in dtypes])
        after = list(model.parameters())
        assert all(map(torch.equal, before, after))
        assert [weights.dtype for weights in before] == [weights.dtype for weights in after]
        return True

    settings = {"bf16": True, "learning_rate": UNMOVED, "max_steps": 2, **TRAININGS[training]}
    trained, _, points = train(
        inputs, resources, probe=probe.divergence, pause_at=(1,), pause=pause, **settings
    )
    assert seen == [expected]
    assert [score(inputs, data, trained, dtype) for dtype in dtypes] == expected
    assert {point["teacher_divergence"] for point in points} == {distance}
    assert probe.divergence(trained) == distance


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("student", "merged"),
    [
        pytest.param("whole", False, marks=pytest.mark.slow),
        pytest.param("LoRA, 16 bits", False, marks=pytest.mark.slow),
        pytest.param("LoRA, 16 bits", True, marks=pytest.mark.slow),
    ],
)
def test_the_exported_model_has_the_score_of_the_trained_one(
    student: str, merged: bool, dtype: ScoringDtype, tmp_path: Path
) -> None:
    inputs = make_inputs(tmp_path, dtype, **STUDENTS[student])
    data = read_training_data(inputs)
    resources = Resources(directory=str(tmp_path), device="cpu", threads=1)
    trained, _, _ = train(inputs, resources, "sft", bf16=True, learning_rate=1e-2)
    expected = score(inputs, data, trained, dtype)
    keep = KeptStudent(
        directory=str(tmp_path / "kept"),
        merged=merged,
        base=inputs.student.model,
        reference=str(tmp_path / "reference"),
    )
    save_student(trained, data.tokenizer, keep, None, dtype)
    if inputs.student.lora and not merged:
        from peft import AutoPeftModelForCausalLM

        options = {"dtype": getattr(torch, dtype)}
        loaded = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "kept", **options)
    else:
        # As it comes: in the precision that it was scored in.
        loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "kept")
        assert loaded.dtype == getattr(torch, dtype)
    found = score(inputs, data, loaded.eval(), dtype)
    # A sum of weights in 16 bits is rounded where it is stored, and nowhere else.
    rounded = {"float32": 1e-6, "bfloat16": 1e-2}[dtype] if merged else 0.0
    assert found == pytest.approx(expected, rel=rounded, abs=0.0)
