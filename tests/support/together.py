"""Trainings that are run by one process and by several, for comparison."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
from torch.distributed.tensor import DTensor

from sweeper.config.models import LoraConfig, ModelConfig, StudentConfig
from sweeper.config.settings import MethodSettings, effective
from sweeper.distillation.data.training_data import read_training_data
from sweeper.distillation.distributed import joined
from sweeper.distillation.models.loading import load_model, without_adapter
from sweeper.distillation.models.precision import computing_in
from sweeper.distillation.sharding import ShardedStudent, shard_teacher
from sweeper.distillation.start import starting_student
from sweeper.distillation.train import TrainingJob, distil
from sweeper.execution.executor import Spec
from sweeper.records import Outcome, Resources
from sweeper.records.layout import JobPaths
from tests.support.tiny_models import make_tiny
from tests.support.training_jobs import make_study_inputs

MICRO_BATCHES = 4
"""Number of micro-batches of an optimiser step, over all processes."""
SETTINGS: dict[str, Any] = {
    "max_steps": 3,
    "per_device_train_batch_size": 2,
    # Its steps are the gradients: what Adam makes of a gradient near 0 depends on rounding.
    "optim": "sgd",
    "learning_rate": 0.3,
    "max_grad_norm": 0.0,
    "max_length": 96,
    "logging_steps": 1,
    "max_new_tokens": 44,
    "gradient_accumulation_steps": MICRO_BATCHES,
}
BUILTIN = ["builtin/adder-student", "builtin/adder-teacher"]
MIXTURES = ["mixture-student", "mixture-teacher"]
"""Folders of tiny mixtures of experts, which ``make_mixtures`` writes."""
CASES: dict[str, dict[str, Any]] = {
    "sft": {"method": "sft"},
    "seqkd": {"method": "seqkd"},
    "supervised_kd": {"method": "supervised_kd"},
    "gkd, beta 0": {"method": "gkd", "lmbda": 0.0, "beta": 0.0},
    "gkd, beta 0.5": {"method": "gkd", "lmbda": 0.5, "beta": 0.5},
    "gkd, beta 1": {"method": "gkd", "lmbda": 1.0, "beta": 1.0},
    "gkd, four tokens of the teacher": {
        "method": "gkd",
        "lmbda": 0.5,
        "teacher_signal": "top_k",
        "teacher_top_k": 4,
    },
    "gkd, one sampled token": {
        "method": "gkd",
        "lmbda": 1.0,
        "teacher_signal": "sampled",
        # Its gradients are large, and so is what later steps make of rounding.
        "learning_rate": 0.03,
    },
    "clipped": {"method": "gkd", "lmbda": 0.5, "beta": 0.0, "max_grad_norm": 0.01},
    "adapter": {"method": "gkd", "lmbda": 0.5, "beta": 0.5, "lora": 2},
    "sft of an adapter": {"method": "sft", "lora": 2},
    "quantized adapter": {"method": "gkd", "lmbda": 0.5, "lora": 2, "quantization": "int8"},
    "sft of a quantized adapter": {
        "method": "sft",
        "lora": 2,
        "quantization": "int4",
        # Its layers compute in bfloat16, whose rounding later steps amplify.
        "max_steps": 1,
    },
    "mixture of experts": {"method": "gkd", "lmbda": 0.5, "mixture": True},
    "sft of a mixture of experts": {"method": "sft", "mixture": True},
    "recomputed activations": {"method": "gkd", "lmbda": 0.5, "gradient_checkpointing": True},
    "stock normalization": {"method": "gkd", "lmbda": 1.0, "stock_normalization": True},
    "few rollouts at a time": {"method": "gkd", "lmbda": 1.0, "rollout_batch_size": 3},
    "one micro-batch each": {
        "method": "gkd",
        "lmbda": 0.7,
        "seq_kd": True,
        "gradient_accumulation_steps": 2,
        "length_bucketing": False,
    },
    "sharded teacher": {"method": "gkd", "lmbda": 0.5, "shard_teacher": True},
    "sharded student": {
        "method": "gkd",
        "lmbda": 0.5,
        "max_grad_norm": 0.01,
        "shard_student": True,
    },
    "sft of a sharded student": {"method": "sft", "shard_student": True},
    "both sharded": {
        "method": "gkd",
        "lmbda": 1.0,
        "shard_teacher": True,
        "shard_student": True,
        "gradient_checkpointing": True,
    },
    "sharded adapter": {"method": "gkd", "lmbda": 0.5, "lora": 2, "shard_student": True},
    "adam on shards": {
        "method": "supervised_kd",
        "optim": "adamw_torch_fused",
        "learning_rate": 1e-3,
        "shard_student": True,
    },
    "bfloat16 on shards": {"method": "gkd", "lmbda": 0.5, "bf16": True, "shard_student": True},
    "adam": {"method": "gkd", "lmbda": 0.5, "optim": "adamw_torch", "learning_rate": 1e-3},
}


def make_mixtures(shared: Path) -> None:
    """Write the mixtures of experts into the folder of the cache."""
    for seed, role in enumerate(MIXTURES):
        make_tiny(shared / role, "qwen3_moe", seed=seed, spread=2.0, output_router_logits=True)


def train(name: str, resources: Resources, shared: Path) -> dict[str, Any]:
    """Train a case in the processes of ``resources``; return weights, curve and counts.

    Args:
        name: Name of the case.
        resources: Resources of this process, which takes its share of a step's micro-batches.
        shared: Folder of the cache.
    """
    case = {**SETTINGS, **CASES[name]}
    method, rank, quantization = (case.pop(key, None) for key in ("method", "lora", "quantization"))
    models = [str(shared / role) for role in MIXTURES] if case.pop("mixture", False) else BUILTIN
    case["gradient_accumulation_steps"] //= resources.processes
    several = resources.processes > 1
    resources = resources.model_copy(
        update={key: case.pop(key, False) and several for key in ("shard_teacher", "shard_student")}
    )
    lora = LoraConfig(r=rank) if rank else None
    inputs = make_study_inputs(
        shared,
        student=StudentConfig(model=models[0], lora=lora, quantization=quantization),
        teacher=ModelConfig(model=models[1]),
        teacher_states_gib=1.0,
    )
    JobPaths(Path(resources.directory)).ranks.mkdir(parents=True, exist_ok=True)
    training_data, points = read_training_data(inputs), []
    student = starting_student(training_data, resources)
    configuration = student.config.to_dict()
    with joined(resources) as processes:
        job = TrainingJob(
            data=training_data,
            resources=resources,
            model=student,
            teacher=inputs.teacher,
            method=method,
            settings=effective(method, MethodSettings(**case)),
            seed=1,
            report=lambda step, total, metrics: points.append(metrics),
            probe=_measure,
            processes=processes,
        )
        model, meter = distil(job)
    weights = {n: p.detach() for n, p in model.named_parameters() if p.requires_grad}
    return {
        "weights": weights,
        "points": points,
        "totals": dict(meter.totals),
        "configuration is unchanged": model.config.to_dict() == configuration,
        "forward is the class's": "forward" not in vars(model),
    }


@torch.no_grad()
def _measure(model: Any) -> float:
    """Read in another precision, as scoring does, and sum up the whole student."""
    with computing_in(model, "bfloat16"):
        assert without_adapter(model)(torch.tensor([[3, 4, 5]])).logits.dtype == torch.bfloat16
    return sum(float(weights.abs().sum()) for weights in model.parameters())


def divide(resources: Resources, shared: Path) -> dict[str, Any]:
    """Divide a student among the processes; return its parts here, and the assembled student."""
    JobPaths(Path(resources.directory)).ranks.mkdir(parents=True, exist_ok=True)
    inputs = make_study_inputs(shared)
    student = starting_student(read_training_data(inputs), resources)
    before = {name: tensor.clone() for name, tensor in student.state_dict().items()}
    with joined(resources):
        divided = ShardedStudent(student)
        parts = {
            name: part.to_local().numel() if isinstance(part, DTensor) else part.numel()
            for name, part in student.named_parameters()
        }
        after = divided.assemble().state_dict()
        rounded = _rounding(divided)
        left = divided.assemble(keep=resources.rank == 0)
        teacher = load_model(inputs.teacher, "cpu")
        shard_teacher(teacher)
        with torch.no_grad():
            teacher(torch.tensor([[3, 4, 5]]))
        layers = [part for name, part in teacher.named_parameters() if ".layers." in name]
    return {
        "parts": parts,
        "before": before,
        "after": after,
        "left here": left is not None,
        "rounded": rounded,
        "teacher in parts": bool(layers) and all(isinstance(part, DTensor) for part in layers),
    }


@torch.no_grad()
def _rounding(divided: ShardedStudent) -> dict[str, Any]:
    """Read under autocast, with weights that are rounded at each use, and as they come."""
    found = {}
    for name, autocast in (("at each use", None), ("as they come", torch.bfloat16)):
        model = divided.assemble(autocast=autocast)
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(torch.tensor([[3, 4, 5, 6, 7]])).logits
        size = sum(weights.numel() * weights.element_size() for weights in model.parameters())
        found[name] = (logits, size)
    return found


def train_all(spec: Spec) -> Outcome:
    """Train all cases, and leave the results in the job's directory."""
    started, resources = time.time(), spec.place
    directory = Path(resources.directory)
    for name in CASES:
        own = resources.model_copy(update={"directory": str(directory / name)})
        torch.save(train(name, own, directory.parent), directory / f"{name}-{resources.rank}.pt")
    own = resources.model_copy(update={"directory": str(directory / "divided")})
    torch.save(divide(own, directory.parent), directory / f"divided-{resources.rank}.pt")
    return Outcome(state="completed", started=started, finished=time.time())
