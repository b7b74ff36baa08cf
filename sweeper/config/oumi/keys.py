"""The keys of Oumi's training configurations: what each is in a study, or why none.

The schema is that of ``oumi.core.configs`` at the end of 2025: ``TrainingConfig`` and its
``ModelParams``, ``DataParams``, ``TrainingParams``, ``GkdParams`` and ``PeftParams``.
"""

from __future__ import annotations

from collections.abc import Mapping

KeyPath = tuple[str, ...]

SETTINGS = "settings"
"""Stands in ``TAKEN`` for the settings of the arm that the recipe becomes."""

_SAME_TRAINING = (
    "max_steps",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "learning_rate",
    "lr_scheduler_type",
    "warmup_ratio",
    "weight_decay",
    "max_grad_norm",
    "adam_beta1",
    "adam_beta2",
    "adam_epsilon",
    "logging_steps",
)
_SAME_GKD = ("temperature", "max_new_tokens", "lmbda", "beta", "disable_dropout", "seq_kd")

TAKEN: Mapping[str, KeyPath] = {
    "model.model_name": ("student", "model"),
    "model.model_revision": ("student", "revision"),
    "model.torch_dtype_str": ("student", "dtype"),
    "model.trust_remote_code": ("student", "trust_remote_code"),
    "model.attn_implementation": ("student", "init_kwargs", "attn_implementation"),
    "model.model_max_length": ("training", "max_length"),
    **{f"training.{name}": ("training", name) for name in _SAME_TRAINING},
    "training.optimizer": ("training", "optim"),
    "training.enable_gradient_checkpointing": ("training", "gradient_checkpointing"),
    "training.lr_scheduler_kwargs": ("training", "lr_scheduler_kwargs"),
    "training.save_steps": ("training", "checkpoint_every"),
    "training.seed": ("seed",),
    "training.gkd.teacher_model_name_or_path": ("teacher", "model"),
    **{f"training.gkd.{name}": (SETTINGS, name) for name in _SAME_GKD},
    "peft.lora_r": ("student", "lora", "r"),
    "peft.lora_alpha": ("student", "lora", "alpha"),
    "peft.lora_dropout": ("student", "lora", "dropout"),
    "peft.lora_target_modules": ("student", "lora", "target_modules"),
    "peft.lora_modules_to_save": ("student", "lora", "modules_to_save"),
}
"""Keys that are the same thing under another name, or even the same one."""

READ = (
    "model.load_pretrained_weights",
    "model.model_kwargs",
    "model.chat_template_kwargs",
    "data.train.datasets",
    "training.trainer_type",
    "training.use_peft",
    "training.num_train_epochs",
    "training.warmup_steps",
    "training.mixed_precision_dtype",
    "training.trainer_kwargs",
    "training.gkd.teacher_model_init_kwargs",
    "peft.q_lora",
    "peft.q_lora_bits",
)
"""Keys that are taken over by more than their name."""

DATASET_TAKEN = ("dataset_name", "dataset_path", "subset", "split", "sample_count")
"""Keys of a data set; ``dataset_kwargs`` is read as well."""

DEFAULTS: Mapping[KeyPath, object] = {
    ("training", "learning_rate"): 5.0e-5,
    ("student", "lora", "r"): 8,
    ("student", "lora", "alpha"): 8,
}
"""Oumi's defaults that differ from a study's."""
EPOCHS = 3
"""Oumi's, if a recipe has neither epochs nor steps."""

_FILES = "a study keeps its files below runs/"
_MLFLOW = "every trial is recorded in MLflow"
_LOG = "a trial's log and training curve are always kept"
_SUITES = "students are scored by the suites below evaluation"
_KEPT = "trials keep no weights; sweeper export --model writes the winner's"
_SEED = "everything random follows from the study's seed"
_RESUME = "an interrupted study resumes by itself"
_COPIES = "each of a trial's devices has a process of its own (compute.devices_per_trial)"
_SHARDS = "compute.shard_student divides the student among a trial's devices"
_TOKENS = "sequences are tokenized once, before training"
_OTHER_TRAINER = "it belongs to another trainer"
_TOKENIZER = "the student's own tokenizer and chat template are used"
_ADAPTER = "adapters have a rank, a scale, dropout and modules here"
_QUANTIZATION = "quantised weights are stored in the library's default way"
_NO_COUNTERPART = "there is no such option here"

NOT_TAKEN: Mapping[str, str] = {
    "model.adapter_model": "a study's student has no adapter yet: merge it into the model first",
    "model.tokenizer_name": _TOKENIZER,
    "model.tokenizer_pad_token": _TOKENIZER,
    "model.tokenizer_kwargs": _TOKENIZER,
    "model.processor_kwargs": "students are models of text",
    "model.chat_template": _TOKENIZER,
    "model.compile": _NO_COUNTERPART,
    "model.device_map": _COPIES,
    "model.enable_liger_kernel": "the losses have memory-saving code of their own",
    "model.shard_for_eval": _SHARDS,
    "model.freeze_layers": "all weights are trained, or an adapter",
    "data.validation": _SUITES,
    "data.test": _SUITES,
    "data.train.collator_name": _TOKENS,
    "data.train.collator_kwargs": _TOKENS,
    "data.train.pack": "sequences are not packed: each batch has sequences of similar length",
    "data.train.stream": _TOKENS,
    "data.train.target_col": "the columns are those of data.train.columns",
    "data.train.mixture_strategy": "a study has one data set",
    "data.train.seed": _SEED,
    "data.train.use_torchdata": _TOKENS,
    "training.gradient_checkpointing_kwargs": "recomputation is never reentrant",
    "training.output_dir": _FILES,
    "training.logging_dir": _FILES,
    "training.run_name": "a study has a name of its own",
    "training.enable_wandb": _MLFLOW,
    "training.enable_mlflow": _MLFLOW,
    "training.enable_tensorboard": _MLFLOW,
    "training.log_level": _LOG,
    "training.dep_log_level": _LOG,
    "training.log_examples": _LOG,
    "training.log_model_summary": _LOG,
    "training.logging_strategy": _LOG,
    "training.logging_first_step": _LOG,
    "training.include_performance_metrics": _LOG,
    "training.include_alternative_mfu_metrics": _LOG,
    "training.profiler": _LOG,
    "training.telemetry": _LOG,
    "training.per_device_eval_batch_size": _SUITES,
    "training.eval_strategy": _SUITES,
    "training.eval_steps": _SUITES,
    "training.metrics_function": _SUITES,
    "training.save_epoch": "checkpoints are counted in steps (save_steps)",
    "training.save_final_model": _KEPT,
    "training.data_seed": _SEED,
    "training.use_deterministic": _SEED,
    "training.full_determinism": _SEED,
    "training.resume_from_checkpoint": _RESUME,
    "training.try_resume_from_last_checkpoint": _RESUME,
    "training.compile": _NO_COUNTERPART,
    "training.empty_device_cache_steps": _NO_COUNTERPART,
    "training.label_ignore_index": "the loss is taken over the answers",
    "training.dataloader_num_workers": _TOKENS,
    "training.dataloader_persistent_workers": _TOKENS,
    "training.dataloader_prefetch_factor": _TOKENS,
    "training.dataloader_main_process_only": _COPIES,
    "training.ddp_find_unused_parameters": _COPIES,
    "training.nccl_default_timeout_minutes": _COPIES,
    "training.reward_functions": _OTHER_TRAINER,
    "training.grpo": _OTHER_TRAINER,
    "training.gold": _OTHER_TRAINER,
    "training.sgd_momentum": _OTHER_TRAINER,
    "training.verl_config_overrides": _OTHER_TRAINER,
    "peft.lora_target_parameters": _ADAPTER,
    "peft.lora_bias": _ADAPTER,
    "peft.lora_init_weights": _ADAPTER,
    "peft.lora_task_type": "students are causal language models",
    "peft.bnb_4bit_quant_type": _QUANTIZATION,
    "peft.bnb_4bit_quant_storage": _QUANTIZATION,
    "peft.bnb_4bit_compute_dtype": _QUANTIZATION,
    "peft.use_bnb_nested_quant": _QUANTIZATION,
    "peft.llm_int8_skip_modules": _QUANTIZATION,
    "peft.peft_save_mode": _KEPT,
    "fsdp": _SHARDS,
    "deepspeed": _SHARDS,
}
"""Keys that mean something to Oumi, and why they mean nothing here."""

DATASET_NOT_TAKEN: Mapping[str, str] = {
    "mixture_proportion": "a study has one data set",
    "shuffle": "the order of the rows follows from the study's seed; limit takes the first ones",
    "seed": _SEED,
    "shuffle_buffer_size": _TOKENS,
    "trust_remote_code": "data sets run no code",
    "transform_num_workers": _TOKENS,
}

DATASET_KWARGS_NOT_TAKEN: Mapping[str, str] = {
    "return_conversations": "rows are conversations anyway",
    "return_conversations_format": "rows are conversations anyway",
}

SECTIONS = frozenset({"model", "data", "data.train", "training", "training.gkd", "peft"})
"""Keys that hold others."""
