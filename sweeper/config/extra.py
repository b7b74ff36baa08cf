"""What ``extra`` may name: arguments of the engine's trainers that have an effect, and no others.

A test trains with and without each entry.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from sweeper.config.arms import ArmConfig
from sweeper.config.base import KeyPath, Refusal, short
from sweeper.config.optimisation import Bounds
from sweeper.config.settings import Method, MethodSettings, resolve
from sweeper.config.study import StudyConfig

_EVERYWHERE = frozenset({"neftune_noise_alpha", "optim_args"})
_SFT = _EVERYWHERE | {"label_smoothing_factor", "loss_type", "packing"}
_SAMPLING = frozenset({"repetition_penalty", "top_k", "top_p"})


def allowed(method: Method, engine: str) -> frozenset[str]:
    """Return the arguments that ``extra`` may name: those that change a training.

    sweeper's engine has the same ones in every method, so that they act in every arm.
    """
    if engine == "trl-distillation":
        return _EVERYWHERE | _SAMPLING
    if engine == "trl" and method in ("sft", "seqkd"):
        return _SFT
    return _EVERYWHERE


_EVALUATION = "students are scored by the suites below evaluation"
_RECORDED = "every trial is recorded in MLflow (tracking)"
_ROWS = "sequences are tokenized once, before training"
_DEVICES = "write compute.devices_per_trial"
_SHARDS = "write compute.shard_student"
_LENGTHS = "write length_bucketing"
_CHECKPOINTS = "write checkpoint_every"
_RECOMPUTED = "write gradient_checkpointing, which is not reentrant"
_HUB = "sweeper export --model writes the winner's weights"

_INSTEAD: Mapping[str, str] = {
    "activation_checkpointing": _RECOMPUTED,
    "activation_checkpointing_kwargs": _RECOMPUTED,
    "assistant_only_loss": "the loss is taken over answers",
    "auto_find_batch_size": "a trial that ran out of memory runs again in smaller batches",
    "batch_eval_metrics": _EVALUATION,
    "bf16_full_eval": _EVALUATION,
    "chat_template_path": "the student's own chat template is used",
    "completion_only_loss": "the loss is taken over answers",
    "dataset_num_proc": _ROWS,
    "dataset_text_field": "write data.train.columns",
    "deepspeed": _SHARDS,
    "do_eval": _EVALUATION,
    "eos_token": "every token that ends the template's answers ends a rollout",
    "fp16_full_eval": _EVALUATION,
    "full_determinism": "everything random follows from the study's seed",
    "gradient_checkpointing_kwargs": _RECOMPUTED,
    "greater_is_better": _EVALUATION,
    "group_by_length": _LENGTHS,
    "ignore_data_skip": "an interrupted trial resumes by itself",
    "label_smoothing_factor": "the losses are the arms' own; engine: trl has it for sft and seqkd",
    "length_column_name": _LENGTHS,
    "load_best_model_at_end": _EVALUATION,
    "local_rank": _DEVICES,
    "loss_type": "the losses are the arms' own; engine: trl has it for sft and seqkd",
    "max_completion_length": "write max_new_tokens",
    "max_seq_length": "write max_length",
    "metric_for_best_model": _EVALUATION,
    "model_init_kwargs": "write student.init_kwargs",
    "no_cuda": "write compute.device",
    "output_dir": "a study keeps its files below runs/",
    "overwrite_output_dir": "a study keeps its files below runs/",
    "packing": "sequences of similar length share a batch; engine: trl has it for sft and seqkd",
    "per_device_eval_batch_size": "write evaluation.batch_size",
    "prediction_loss_only": _EVALUATION,
    "project": _RECORDED,
    "report_to": _RECORDED,
    "restore_callback_states_from_checkpoint": "an interrupted trial resumes by itself",
    "resume_from_checkpoint": "an interrupted trial resumes by itself",
    "run_name": _RECORDED,
    "seed": "write seed, the study's",
    "data_seed": "write seed, the study's",
    "student_model_revision": "write student.revision",
    "teacher_model_init_kwargs": "write teacher.init_kwargs",
    "teacher_model_name_or_path": "write teacher.model",
    "teacher_model_revision": "write teacher.revision",
    "train_sampling_strategy": _LENGTHS,
    "truncation_mode": "write max_length; sequences are cut at their end",
    "use_cache": "rollouts always use it",
    "use_cpu": "write compute.device",
    "use_liger_kernel": "the losses have memory-saving code of their own",
    "use_vllm": "rollouts are sampled by the student itself",
    "warmup_steps": "write warmup_ratio, its share of the steps",
}
"""What to do in place of an argument that has no effect here, or one that would break."""
_FAMILIES: Mapping[str, str] = {
    "dataloader_": _ROWS,
    "ddp_": _DEVICES,
    "eval_": _EVALUATION,
    "fsdp": _SHARDS,
    "hub_": _HUB,
    "log": "write logging_steps; a trial's log and curve are always kept",
    "push_to_hub": _HUB,
    "save_": _CHECKPOINTS,
    "torch_compile": "a student's forward pass is not compiled; write teacher.compile",
    "trackio_": _RECORDED,
    "vllm_": "rollouts are sampled by the student itself",
}


def instead(name: str) -> str:
    """Return what to do in place of the argument ``name``; empty if there is nothing."""
    if name in MethodSettings.model_fields and name != "extra":
        return f"write {name} as a key of its own"
    if name in _INSTEAD:
        return _INSTEAD[name]
    return next((text for start, text in _FAMILIES.items() if name.startswith(start)), "")


_VALUES: Mapping[str, tuple[Bounds | tuple[Any, ...], Any]] = {
    "neftune_noise_alpha": (Bounds(high=1000), 0),
    "label_smoothing_factor": (Bounds(high=1, below=True), 0),
    "loss_type": (("nll", "dft"), "nll"),
    "packing": ((True, False), False),
    "repetition_penalty": (Bounds(high=100, above=True), 1),
    "top_k": (Bounds(high=2**31, below=True, whole=True), 0),
    "top_p": (Bounds(high=1, above=True), 1),
}
"""Values of each argument that is no text of an optimiser's, and the one that turns it off."""


def value_problem(name: str, value: Any, beside: Mapping[str, Any], *, alone: bool) -> str | None:
    """Say why the argument ``name`` cannot be ``value``; None if it can.

    Args:
        name: One of those that ``extra`` may name.
        value: Its value.
        beside: All arguments of the training.
        alone: True if a training without the argument would be the same at the value that turns it
            off: it is not searched, and replaces no other value.
    """
    if name not in _VALUES:
        return None
    if name == "label_smoothing_factor" and beside.get("loss_type") == "dft":
        return "has no effect with loss_type: dft"
    known, off = _VALUES[name]
    if isinstance(known, Bounds):
        message = known.problem(value)
    else:
        right = any(value is one or (value == one and isinstance(value, str)) for one in known)
        names = " or ".join(str(one).lower() for one in known)
        message = None if right else f"expected {names}, found {short(value)}"
    if message is None and alone and value == off:
        message = f"has no effect at {str(off).lower()}: leave it out"
    return message


def extra_problems(config: StudyConfig) -> Iterator[Refusal]:
    """Yield the arguments below ``extra`` that change nothing in an arm, with their places."""
    training = config.training
    for name, value in training.extra.items():
        without = [
            arm
            for arm, one in config.arms.items()
            if name not in allowed(one.method, _engine(config, one))
        ]
        if without and len(without) < len(config.arms):
            message = f"{name!r} has no effect in {', '.join(without)}; write it at the other arms"
            yield ("training", "extra", name), message
        elif without:
            yield ("training", "extra", name), _refusal(name)
        elif why := value_problem(name, value, training.extra, alone=True):
            yield ("training", "extra", name), why
    if (warm := config.warm_start) is not None:
        for name, value in warm.extra.items():
            if name not in allowed(warm.method, training.engine):
                yield ("warm_start", "extra", name), _refusal(name)
            elif why := value_problem(name, value, warm.extra, alone=name not in training.extra):
                yield ("warm_start", "extra", name), why
    for arm, one in config.arms.items():
        beside = resolve(training, one.settings).extra
        for location, name, values in _named(one):
            if name not in allowed(one.method, _engine(config, one)):
                yield ("arms", arm, *location), _refusal(name)
                continue
            alone = name not in training.extra and len({repr(each) for each in values.values()}) < 2
            for at, value in values.items():
                if why := value_problem(name, value, beside, alone=alone):
                    yield ("arms", arm, *at), why


def _engine(config: StudyConfig, arm: ArmConfig) -> str:
    return str(arm.settings.get("engine", config.training.engine))


def _named(arm: ArmConfig) -> Iterator[tuple[KeyPath, str, dict[KeyPath, Any]]]:
    """Yield the arguments that an arm fixes or searches: place in the arm, name, values."""
    whole: Any = arm.settings.get("extra", {})
    for name, value in whole.items():
        at = ("settings", "extra", name)
        yield at, name, {at: value}
    for part, keys in (("settings", arm.settings), ("search", arm.search)):
        for key in keys:
            if key.startswith("extra."):
                yield (part, key), key.removeprefix("extra."), dict(arm.places(key))


def _refusal(name: str) -> str:
    known = ", ".join(sorted(_EVERYWHERE))
    why = instead(name)
    return f"{name!r} has no effect here: {why}" if why else f"expected {known}, found {name!r}"
