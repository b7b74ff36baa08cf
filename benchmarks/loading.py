"""What loading takes, in seconds and memory: ``python -m benchmarks.loading --json FILE``.

Models, tokenizer and data are made on the spot, below ``--folder``. Each row is a process of its
own. Its memory is the most that it had resident beyond what it had before, mapped files aside; its
``processor`` seconds count all cores. ``whole`` is how a thing is loaded that takes all, ``part``
how sweeper does:

- ``limit``: the first rows of a file, after all are read, and alone;
- ``tokens``: prompts and answers, a text at a time, and in batches;
- ``layers``: some layers of a student, cut out of the whole model, and alone;
- ``head``: the teacher's head, out of the whole model, and alone;
- ``device``: a model on ``--device``, through main memory, and straight (not on a CPU).
"""

from __future__ import annotations

import argparse
import json
import tempfile
import threading
import time
from collections.abc import Callable
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any

LIMIT = 1000
LAYERS, KEPT = 24, 6
WORDS = ("what", "is", "the", "sum", "of", "apples", "and", "pears", "that", "seven", "carry")
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


Call = Callable[[], int]
"""What is measured; returns how much it has loaded."""


def text(number: int, words: int) -> str:
    return " ".join(
        f"{WORDS[(number * 7 + i * i) % len(WORDS)]} {number + i}" for i in range(words)
    )


def make(folder: Path, rows: int) -> None:
    """Write the files that are loaded."""
    import pyarrow
    import pyarrow.parquet
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast

    table = [{"prompt": text(n, 20), "completion": text(n, 30)} for n in range(rows)]
    with (folder / "rows.jsonl").open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in table)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(table), folder / "rows.parquet")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|im_start|>", "<|im_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=2000, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator((row["completion"] for row in table[:2000]), trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=special[1])
    fast.chat_template = TEMPLATE
    shape = {"hidden_size": 512, "intermediate_size": 1408, "num_attention_heads": 8}
    config = LlamaConfig(vocab_size=50_000, num_hidden_layers=LAYERS, **shape)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(folder / "model")
    fast.save_pretrained(folder / "model")


def rows_whole(folder: Path, name: str) -> Call:
    from sweeper.foundation.data_files import read_placed

    return lambda: len(list(read_placed(folder / name))[:LIMIT])


def rows_part(folder: Path, name: str) -> Call:
    from sweeper.foundation.data_files import read_placed

    return lambda: len(list(islice(read_placed(folder / name), LIMIT)))


def tokens_whole(folder: Path, count: int) -> Call:
    from sweeper.distillation.data.answers import AnswerTokens, last_answer
    from sweeper.distillation.data.examples import render_prompt

    tokenizer, examples = _material(folder, count)
    answers = AnswerTokens.of(tokenizer)

    def call() -> int:
        total = 0
        for example in examples:
            prompt = render_prompt(example, tokenizer)
            total += len(tokenizer(prompt, add_special_tokens=False)["input_ids"])
            total += len(last_answer(example, prompt, answers)[0])
        return total

    return call


def tokens_part(folder: Path, count: int) -> Call:
    from sweeper.distillation.data.examples import tokenize

    tokenizer, examples = _material(folder, count)

    def call() -> int:
        sequences = tokenize(examples, tokenizer, 10_000).sequences
        return sum(len(s.prompt) + len(s.completion or ()) for s in sequences)

    return call


def _material(folder: Path, count: int) -> tuple[Any, Any]:
    from sweeper.config.columns import ColumnsConfig
    from sweeper.config.data import DataConfig
    from sweeper.config.models import ModelConfig
    from sweeper.distillation.data.examples import to_examples
    from sweeper.distillation.models.loading import load_tokenizer
    from sweeper.foundation.data_files import read_placed

    rows = [row for _, row in islice(read_placed(folder / "rows.jsonl"), count)]
    data = DataConfig.model_validate({"train": {"path": "rows.jsonl"}})
    examples = to_examples(rows, ColumnsConfig(prompt="prompt", completion="completion"), data)
    return load_tokenizer(ModelConfig(model=str(folder / "model"))), examples


def layers_whole(folder: Path, device: str) -> Call:
    from sweeper.distillation.models.layer_dropping import keep_layers, spread

    def call() -> int:
        model = _load(folder, "cpu")
        keep_layers(model, spread(KEPT, LAYERS))
        return int(model.to(device).num_parameters())

    return call


def layers_part(folder: Path, device: str) -> Call:
    return lambda: int(_load(folder, device, keep_layers=KEPT).num_parameters())


def head_whole(folder: Path, device: str) -> Call:
    return lambda: int(_load(folder, device).get_output_embeddings().weight.numel())


def head_part(folder: Path, device: str) -> Call:
    import torch

    from sweeper.config.models import ModelConfig
    from sweeper.distillation.models.head_loading import load_head

    def call() -> int:
        head = load_head(ModelConfig(model=str(folder / "model")), device, torch.float32)
        assert head is not None
        return head.weight.numel()

    return call


def device_whole(folder: Path, device: str) -> Call:
    return lambda: int(_load(folder, "cpu").to(device).num_parameters())


def device_part(folder: Path, device: str) -> Call:
    return lambda: int(_load(folder, device).num_parameters())


def _load(folder: Path, device: str, **changes: Any) -> Any:
    from sweeper.config.models import ModelConfig
    from sweeper.distillation.models.loading import load_model

    named = ModelConfig(model=str(folder / "model"), dtype="float32", **changes)
    return load_model(named, device)


class Watch:
    """The most memory that a process has of its own, looked at every few milliseconds."""

    def __init__(self) -> None:
        self.most = self.first = self._own()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def _own(self) -> int:
        with open("/proc/self/status", encoding="utf-8") as file:
            lines = dict(line.split(":", 1) for line in file)
        return int(lines["RssAnon"].split()[0]) * 1024

    def _look(self) -> None:
        while not self._ended.wait(0.002):
            self.most = max(self.most, self._own())

    def end(self) -> int:
        """Return the bytes beyond those at the start."""
        self._ended.set()
        self._thread.join()
        return max(self.most, self._own()) - self.first


def measure(what: Callable[..., Call], folder: Path, argument: Any, results: Any) -> None:
    """Put what a call has loaded, its seconds and its bytes into a queue."""
    import torch
    import transformers

    transformers.utils.logging.disable_progress_bar()
    # Whatever the first call imports is no part of it.
    import sweeper.distillation.train  # noqa: F401

    call = what(folder, argument)
    torch.zeros(1, device=argument if isinstance(argument, str) and "cuda" in argument else "cpu")
    watch, started, worked = Watch(), time.perf_counter(), time.process_time()
    count = call()
    seconds, processor = time.perf_counter() - started, time.process_time() - worked
    results.put((count, seconds, processor, watch.end()))


def main() -> None:
    from sweeper.foundation.environment import hardware

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--tokenized", type=int, default=20_000)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=asked.folder) as name:
        folder = Path(name)
        make(folder, asked.rows)
        pairs: list[tuple[str, Callable[..., Call], Callable[..., Call], Any]] = [
            ("limit, jsonl", rows_whole, rows_part, "rows.jsonl"),
            ("limit, parquet", rows_whole, rows_part, "rows.parquet"),
            ("tokens", tokens_whole, tokens_part, asked.tokenized),
            ("layers", layers_whole, layers_part, asked.device),
            ("head", head_whole, head_part, asked.device),
        ]
        if asked.device != "cpu":
            pairs.append(("device", device_whole, device_part, asked.device))
        context, rows = get_context("spawn"), []
        for what, whole, part, argument in pairs:
            for how, call in (("whole", whole), ("part", part)):
                results = context.Queue()
                process = context.Process(target=measure, args=(call, folder, argument, results))
                process.start()
                count, seconds, processor, memory = results.get(timeout=600)
                process.join()
                row = {"what": what, "how": how, "count": count, "seconds": round(seconds, 3)}
                row |= {"processor": round(processor, 3), "mib": round(memory / 2**20)}
                rows.append(row)
                print(json.dumps(row), flush=True)
    if asked.json:
        options = {"rows": asked.rows, "tokenized": asked.tokenized, "device": asked.device}
        found = {"options": options, "machine": hardware(), "measured": rows}
        asked.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
