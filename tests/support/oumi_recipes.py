"""Recipes of Oumi for GKD: from its documentation, and one with every key that is read."""

from __future__ import annotations

BASIC = """\
model:
  model_name: "Qwen/Qwen2.5-0.5B-Instruct"
  torch_dtype_str: "bfloat16"

training:
  trainer_type: "TRL_GKD"
  use_peft: True

  gkd:
    teacher_model_name_or_path: "Qwen/Qwen2.5-1.5B-Instruct"
    teacher_model_init_kwargs:
      torch_dtype: "bfloat16"
    temperature: 0.9
    lmbda: 0.5
    beta: 0.5
    max_new_tokens: 256

peft:
  lora_r: 16
  lora_alpha: 32
"""
QUANTISED = """\
training:
  gkd:
    teacher_model_name_or_path: "meta-llama/Llama-3.1-8B-Instruct"
    teacher_model_init_kwargs:
      torch_dtype: "int8"  # Quantize teacher to save memory
      device_map: "auto"
"""
CONSERVATIVE = """\
training:
  gkd:
    teacher_model_name_or_path: "teacher-model"
    temperature: 0.3  # Lower temperature for focused learning
    lmbda: 0.3        # More off-policy (70% dataset)
    beta: 0.0         # KL divergence (teacher-focused)
"""
WHOLE = """\
model:
  model_name: HuggingFaceTB/SmolLM2-135M-Instruct
  model_revision: main
  model_max_length: 1024
  torch_dtype_str: f32
  attn_implementation: sdpa
  trust_remote_code: true
  load_pretrained_weights: true
  tokenizer_name: other
  model_kwargs: {use_cache: false}
data:
  train:
    collator_name: text_with_padding
    datasets:
      - dataset_name: PromptResponseDataset
        dataset_path: rows.jsonl
        subset: main
        split: test
        sample_count: 100
        shuffle: true
        dataset_kwargs:
          prompt_column: question
          response_column: answer
          return_conversations: true
  validation: {datasets: []}
training:
  trainer_type: TRL_GKD
  use_peft: true
  output_dir: out
  max_steps: 50
  num_train_epochs: 3
  per_device_train_batch_size: 2
  gradient_accumulation_steps: 4
  learning_rate: 1.0e-4
  lr_scheduler_type: cosine
  lr_scheduler_kwargs: {num_cycles: 0.5}
  warmup_ratio: 0.1
  optimizer: adamw_torch_fused
  weight_decay: 0.01
  max_grad_norm: 0.5
  adam_beta2: 0.95
  enable_gradient_checkpointing: true
  gradient_checkpointing_kwargs: {use_reentrant: false}
  mixed_precision_dtype: BF16
  seed: 7
  logging_steps: 1
  save_steps: 10
  enable_wandb: false
  trainer_kwargs: {neftune_noise_alpha: 5}
  gkd:
    teacher_model_name_or_path: HuggingFaceTB/SmolLM2-360M-Instruct
    teacher_model_init_kwargs:
      dtype: bfloat16
      attn_implementation: sdpa
      revision: main
    temperature: 0.7
    max_new_tokens: 512
    lmbda: 0.6
    beta: 1.0
    disable_dropout: true
    seq_kd: true
peft:
  lora_r: 4
  lora_alpha: 8
  lora_dropout: 0.1
  lora_target_modules: [q_proj, v_proj]
  lora_init_weights: gaussian
fsdp: {enable_fsdp: false}
"""
