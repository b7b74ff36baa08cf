"""From an arm of a study to a recipe that trains like it; by the table in ``keys``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sweeper.config.base import Scalar
from sweeper.config.builtin import MODELS, model_directory
from sweeper.config.data import DatasetConfig
from sweeper.config.models import ModelConfig, with_settings
from sweeper.config.oumi.keys import SETTINGS, TAKEN, KeyPath
from sweeper.config.settings import MethodSettings, effective, model_settings, resolve
from sweeper.config.study import StudyConfig
from sweeper.foundation.data_folders import is_data_file
from sweeper.foundation.errors import ConfigError, Problem

_WRITTEN = frozenset(
    {
        "max_steps",
        "per_device_train_batch_size",
        "gradient_accumulation_steps",
        "learning_rate",
        "lr_scheduler_type",
        "warmup_ratio",
        "weight_decay",
        "max_grad_norm",
        "optim",
        "gradient_checkpointing",
        "max_length",
    }
)
"""Training keys that a recipe always gives; others only where they are not the default."""


def write_recipe(
    config: StudyConfig,
    arm: str,
    params: Mapping[str, Scalar],
    folders: Mapping[str, str] = {},
) -> tuple[dict[str, Any], list[str]]:
    """Return the recipe that trains like a trial of ``arm``, and notes on what it leaves out.

    Args:
        config: The study.
        arm: The arm.
        params: Sampled parameters of the trial.
        folders: Absolute folders of local models, by the names that the study gives them.

    Raises:
        ConfigError: The format has no trainer for the arm's method.
    """
    method, fixed = config.arms[arm].method, config.arms[arm].settings
    if method == "seqkd":
        message = (
            f"the arm {arm} trains on answers that the teacher gave once (seqkd), for which the"
            " format has no trainer; use --model, or another arm (--arm)"
        )
        raise ConfigError([Problem(source="--recipe", message=message)])
    settings = effective(method, resolve(config.training, fixed, dict(params)))
    lora = config.student.lora
    training: dict[str, Any] = {
        "trainer_type": "TRL_SFT" if method == "sft" else "TRL_GKD",
        "output_dir": f"output/{config.study}-{arm}",
        "use_peft": lora is not None,
        "seed": config.seed,
        **_training(settings),
    }
    values: dict[str, Any] = {
        "model": _student(config, settings, folders),
        "data": {"train": {"datasets": [_dataset(config.data.train)]}},
        "training": training,
    }
    if method != "sft":
        start = config.student.before_training()
        own = model_settings("teacher", fixed, dict(params))
        teacher = _teacher(with_settings(config.teacher, own, start), folders)
        training["gkd"] = {**teacher, **_same(settings.model_dump(), SETTINGS)}
    if lora is not None:
        changes = model_settings("lora", fixed, dict(params))
        adapter = {**lora.model_dump(mode="json"), **changes}
        if adapter["target_modules"] == "all-linear":
            adapter["target_modules"] = None  # What Oumi does without a list.
        if float(adapter["alpha"]).is_integer():
            adapter["alpha"] = int(adapter["alpha"])  # Oumi takes whole numbers only.
        adapter["modules_to_save"] = adapter["modules_to_save"] or None
        values["peft"] = _same(adapter, "student", "lora")
        if bits := _bits(config.student):
            values["peft"] |= {"q_lora": True, "q_lora_bits": bits}
    return values, _unsaid(config, settings, on_policy=method == "gkd")


def _training(settings: MethodSettings) -> dict[str, Any]:
    values = settings.model_dump()
    extra = dict(values.pop("extra"))
    kept = {
        name: value
        for name, value in values.items()
        if name in _WRITTEN or value != MethodSettings.model_fields[name].default
    }
    kept.pop("max_length")  # It is the model's in a recipe.
    found = _same(kept, "training")
    if settings.bf16 or settings.fp16:
        found["mixed_precision_dtype"] = "BF16" if settings.bf16 else "FP16"
    if extra:
        found["trainer_kwargs"] = extra
    return found


def _student(
    config: StudyConfig, settings: MethodSettings, folders: Mapping[str, str]
) -> dict[str, Any]:
    student = config.student
    arguments = dict(student.init_kwargs)
    found: dict[str, Any] = {"model_name": place(student.model, folders)}
    if student.revision is not None:
        found["model_revision"] = student.revision
    whole = student.lora is None or settings.bf16 or settings.fp16
    found["torch_dtype_str"] = "float32" if student.dtype == "auto" and whole else student.dtype
    if "attn_implementation" in arguments:
        found["attn_implementation"] = arguments.pop("attn_implementation")
    if student.trust_remote_code:
        found["trust_remote_code"] = True
    if student.random_init:
        found["load_pretrained_weights"] = False
    found["model_max_length"] = settings.max_length
    if arguments:
        found["model_kwargs"] = arguments
    return found


def _teacher(teacher: ModelConfig, folders: Mapping[str, str]) -> dict[str, Any]:
    """Return the teacher of an arm, which has the arm's own settings."""
    arguments: dict[str, Any] = {"torch_dtype": teacher.dtype}
    if bits := _bits(teacher):
        arguments["torch_dtype"] = f"int{bits}"
    if teacher.revision is not None:
        arguments["revision"] = teacher.revision
    if teacher.trust_remote_code:
        arguments["trust_remote_code"] = True
    return {
        "teacher_model_name_or_path": place(teacher.model, folders),
        "teacher_model_init_kwargs": {**arguments, **teacher.init_kwargs},
    }


def _bits(model: ModelConfig) -> int | None:
    """Return the bits of the weights of a model that is quantized when it is loaded."""
    quantization = getattr(model, "quantization", None)
    return None if quantization is None else int(str(quantization).removeprefix("int"))


def _dataset(data: DatasetConfig) -> dict[str, Any]:
    columns = data.columns
    local = is_data_file(data.path)
    arguments: dict[str, Any] = {}
    found: dict[str, Any] = {"dataset_name": data.path}
    if columns is not None and columns.messages is not None:
        if local and columns.messages == "messages":
            found["dataset_name"] = "text_sft"
        else:
            found["dataset_name"] = "HuggingFaceDataset"
            arguments = {"hf_dataset_path": data.path, "messages_column": columns.messages}
    elif columns is not None and columns.completion is not None:
        found["dataset_name"] = "PromptResponseDataset"
        arguments = {
            "hf_dataset_path": data.path,
            "prompt_column": columns.prompt,
            "response_column": columns.completion,
        }
    elif columns is not None:
        found["dataset_name"] = "HuggingFaceDataset"
        arguments = {"hf_dataset_path": data.path, "prompt_column": columns.prompt}
    if local:
        found["dataset_path"] = data.path
        arguments.pop("hf_dataset_path", None)
    if data.name is not None:
        found["subset"] = data.name
    if data.split != "train":
        found["split"] = data.split
    if data.limit is not None:
        found["sample_count"] = data.limit
    # What TRL's GKD trainer reads.
    conversations = {"return_conversations": True, "return_conversations_format": "dict"}
    return {**found, "dataset_kwargs": {**arguments, **conversations}}


def _same(values: Mapping[str, Any], *below: str) -> dict[str, Any]:
    """Return the values of keys that only have another name, by their last name in a recipe."""
    prefix: KeyPath = below
    return {
        key.rpartition(".")[2]: values[to[-1]]
        for key, to in TAKEN.items()
        if to[:-1] == prefix and values.get(to[-1]) is not None
    }


def place(model: str, folders: Mapping[str, str]) -> str:
    """Return what other programs find a model by: a hub id, or its directory in ``folders``."""
    name = model.removeprefix("builtin/")
    if model.startswith("builtin/") and name in MODELS:
        return str(model_directory(name))
    return folders.get(model, model)


def _unsaid(
    config: StudyConfig,
    settings: MethodSettings,
    *,
    on_policy: bool,
) -> list[str]:
    """Return notes on what a recipe cannot express of the arm."""
    found = []
    if config.warm_start is not None:
        found.append(
            f"The study's students start from a warm start ({config.warm_start.method},"
            f" {config.warm_start.max_steps} steps), which this does not make: train it first, and"
            " give it as model_name, and as the teacher of an arm whose teacher is the student."
        )
    if config.student.keep_layers is not None:
        found.append(
            "The study's student keeps only some layers of its model, which this does not do."
        )
    if config.data.system_prompt is not None:
        found.append("The study puts a system prompt before every prompt, which this does not do.")
    if config.data.chat_template_kwargs or config.teacher.chat_template_kwargs is not None:
        found.append("The study gives chat templates arguments, which this does not do.")
    if config.data.assistant_turns == "all":
        found.append("The study trains all answers of a conversation; this trains the last one.")
    if config.data.train.path.startswith("builtin/"):
        found.append(f"{config.data.train.path} is known to sweeper only: name a data set.")
    elif (columns := config.data.train.columns) is None:
        found.append("The study guesses the columns of its data; say what they hold.")
    elif further := [k for k in ("input", "tools", "system") if getattr(columns, k) is not None]:
        found.append(f"The study reads columns for {', '.join(further)}, which this does not do.")
    if config.data.train.revision is not None:
        found.append(
            f"The data's revision is {config.data.train.revision}, which is not said here."
        )
    if on_policy and settings.lmbda > 0 and not settings.stock_normalization:
        found.append(
            "The trainer divides the on-policy loss by the tokens of the reference answers, and the"
            " study by those that were generated (docs/training.md): the same learning rate may be"
            " another."
        )
    if settings.teacher_signal == "top_k":
        found.append(
            f"The study's loss reads the teacher's {settings.teacher_top_k} most likely tokens"
            " (teacher_signal: top_k); the trainer's reads all, and there is no key for it."
        )
    if settings.teacher_signal == "sampled":
        found.append(
            "The study's loss reads one token of the teacher's distribution (teacher_signal:"
            " sampled); the trainer's reads all with beta: 1, which that estimates."
        )
    if on_policy and config.teacher.server is not None:
        found.append(
            "The study's teacher answers over a server (teacher.server); the trainer loads it."
        )
    lora = config.student.lora
    kinds = [key for key in ("use_rslora", "use_dora") if lora and getattr(lora, key)]
    if kinds:
        found.append(f"The study's adapter has {' and '.join(kinds)}, which is not said here.")
    if settings.seq_kd:
        found.append("With seq_kd the trainer samples new answers from the teacher at every step.")
    return found
