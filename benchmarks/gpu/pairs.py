"""Teachers, students and data of the GPU's benchmark, made on the spot.

Weights are random: they are drawn on the device whenever a model is loaded, and never written.
"""

from __future__ import annotations

import json
import random
import string
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import AutoConfig

from benchmarks import pairs
from benchmarks.gpu.task import ADDER, Shapes
from sweeper.config.data import DataConfig, DatasetConfig
from sweeper.config.models import ModelConfig, StudentConfig
from sweeper.records import StudyInputs
from tests.support.tiny_models import QWEN_FAMILY, make_tokenizer

_SEED = 1


@dataclass(frozen=True)
class Sizes:
    """Sizes of a training step.

    Attributes:
        rows: Sequences of a micro-batch.
        accumulation: Micro-batches of a step.
        prompt: Tokens of every prompt.
        answer: Tokens of every answer, sampled or not.
    """

    rows: int
    accumulation: int
    prompt: int
    answer: int


SIZES: dict[Shapes, Sizes] = {"full": Sizes(8, 4, 128, 128), "tiny": Sizes(2, 2, 40, 8)}
_ADDER_SIZES: dict[Shapes, tuple[int, int]] = {"full": (32, 48), "tiny": (4, 8)}
"""Sequences of a step of the adder, and its longest rollout."""


def _qwen(width: int, inner: int, layers: int, heads: int, shared: int, tied: bool) -> Any:
    return {
        "vocab_size": 151_936,
        "hidden_size": width,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": shared,
        "tie_word_embeddings": tied,
        "max_position_embeddings": 32_768,
        "rms_norm_eps": 1e-6,
    }


MODELS: dict[Shapes, dict[str, dict[str, Any]]] = {
    "full": {
        "0.5B": _qwen(896, 4864, 24, 14, 2, True),
        "1.5B": _qwen(1536, 8960, 28, 12, 2, True),
        # The real one pads its vocabulary by 128 rows more, which trials cut off.
        "7B": _qwen(3584, 18944, 28, 28, 4, False),
    },
    "tiny": {
        "0.5B": _qwen(16, 32, 1, 2, 1, True) | {"vocab_size": 512},
        "1.5B": _qwen(16, 32, 2, 2, 1, True) | {"vocab_size": 512},
        "7B": _qwen(32, 64, 2, 4, 2, False) | {"vocab_size": 512},
    },
}
"""Configurations of the models by their names; the tiny ones are named as what they stand for."""


def make(name: str, shapes: Shapes, folder: Path, on_gpu: bool) -> pairs.Pair:
    """Return the pair ``name``, with its files below ``folder``; the same ones in each process.

    Args:
        name: ``ADDER``, or a ``task.pair_name``.
        shapes: Sizes of the models and of the steps.
        folder: Where to write.
        on_gpu: True for what trials take from a GPU: bfloat16 autocast, TF32, the fused optimiser.
    """
    own: dict[str, Any] = {"bf16": False}
    if on_gpu:
        own = {"bf16": True, "tf32": True, "optim": "adamw_torch_fused"}
    adder = pairs.make("quickstart", folder, threads=1)
    if name == ADDER:
        rows, answer = _ADDER_SIZES[shapes]
        changes = {"per_device_train_batch_size": rows, "max_new_tokens": answer}
        return pairs.Pair(name, adder.inputs, {**adder.settings, **changes, **own})
    student, _, teacher = name.partition(" from ")
    sizes, models = SIZES[shapes], MODELS[shapes]
    folders = {role: _written(models[role], folder / role) for role in (student, teacher)}
    file = folder / "rows.jsonl"
    if not file.exists():
        _write_rows(file, sizes)
    inputs: StudyInputs = adder.inputs.model_copy(
        update={
            "teacher": ModelConfig(
                model=str(folders[teacher]),
                random_init=True,
                dtype="bfloat16" if on_gpu else "float32",
            ),
            "student": StudentConfig(model=str(folders[student]), random_init=True),
            "data": DataConfig(train=DatasetConfig(path=str(file))),
            "data_files": (str(file),),
        }
    )
    settings = {
        "per_device_train_batch_size": sizes.rows,
        "gradient_accumulation_steps": sizes.accumulation,
        "max_new_tokens": sizes.answer,
        "max_length": sizes.prompt + sizes.answer,
        **own,
    }
    return pairs.Pair(name, inputs, settings)


def _written(values: dict[str, Any], folder: Path) -> Path:
    """Write a configuration and a tokenizer whose tokens are bytes, unless they are there."""
    if (folder / "config.json").exists():
        return folder
    folder.mkdir(exist_ok=True)
    tokenizer = make_tokenizer(QWEN_FAMILY)
    tokenizer.model_max_length = values["max_position_embeddings"]
    tokenizer.save_pretrained(folder)
    AutoConfig.for_model(
        "qwen2",
        **values,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    ).save_pretrained(folder)
    return folder


def _write_rows(file: Path, sizes: Sizes) -> None:
    """Write one window of rows whose prompts and answers are all of the same length."""
    tokenizer = make_tokenizer(QWEN_FAMILY)
    frame = tokenizer.apply_chat_template(
        [{"role": "user", "content": ""}], add_generation_prompt=True, tokenize=False
    )
    room = sizes.prompt - len(tokenizer(frame)["input_ids"])
    draw = random.Random(_SEED)

    def text(length: int) -> str:
        return "".join(draw.choices(string.ascii_lowercase, k=length))

    # The answer ends with one more token.
    rows = [
        json.dumps({"question": text(room), "answer": text(sizes.answer - 1)})
        for _ in range(sizes.rows * sizes.accumulation)
    ]
    file.write_text("\n".join(rows) + "\n", encoding="utf-8")
