"""GKD training in sweeper against stock TRL: ``python -m benchmarks.engine --json FILE``.

Every figure comes from whole training jobs, the same function that trials run, on the same rows in
the same order, the engines taking turns. Seconds of a step are from the end of one to the end of
the next, so the first step of a job is not counted. Three rivals:

- ``stock``: TRL's ``GKDTrainer`` as it comes: bfloat16 autocast, gradient checkpointing, and so no
  key-value cache in rollouts;
- ``stock_tuned``: the same as well as its own options allow: float32, no checkpointing, cache;
- ``ours``: sweeper's engine, in float32.

``ratio_to_tuned`` says how many times better ours is than tuned stock; ``spread`` is the lowest and
the highest ratio of the repetitions.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from transformers import GenerationConfig

from benchmarks.pairs import Pair, make
from sweeper.config.settings import Method, MethodSettings, effective
from sweeper.distillation import job, models, rollouts
from sweeper.distillation.material import read_material, unpack_models
from sweeper.distillation.meter import Meter
from sweeper.records import Place

ENGINES: dict[str, dict[str, Any]] = {
    "stock": {"engine": "trl", "bf16": True, "gradient_checkpointing": True},
    "stock_tuned": {"engine": "trl"},
    "ours": {"engine": "sweeper"},
}
STEPS = ("step_beta_0.5", "step_beta_1", "step_beta_0")


@dataclass
class Row:
    """One comparison; more is better if ``higher``."""

    name: str
    pair: str
    unit: str
    higher: bool
    values: dict[str, list[float]] = field(default_factory=dict)

    def add(self, engine: str, values: list[float]) -> None:
        """More measurements of an engine."""
        self.values.setdefault(engine, []).extend(values)

    def median(self, engine: str) -> float | None:
        """Of all measurements of an engine."""
        return statistics.median(self.values[engine]) if self.values.get(engine) else None

    def better(self, ours: float, tuned: float) -> float:
        """How many times better."""
        return ours / tuned if self.higher else tuned / ours

    def as_json(self) -> dict[str, Any]:
        """The row of the report."""
        pairs = zip(self.values["ours"], self.values["stock_tuned"], strict=False)
        ratios = [self.better(ours, tuned) for ours, tuned in pairs]
        ours, tuned = self.median("ours"), self.median("stock_tuned")
        assert ours is not None and tuned is not None
        return {
            "name": self.name,
            "pair": self.pair,
            "unit": self.unit,
            **{engine: self.median(engine) for engine in ENGINES},
            "ratio_to_tuned": self.better(ours, tuned),
            "spread": [min(ratios), max(ratios)],
        }


class Bench:
    """Measures on one pair."""

    def __init__(self, pair: Pair, folder: Path, threads: int, rounds: int, steps: int) -> None:
        torch.set_num_threads(threads)
        self.pair, self.rounds, self.steps = pair, rounds, steps
        self.origin = unpack_models(pair.origin)
        self.place = Place(directory=str(folder), device="cpu", threads=threads)
        self.material = read_material(self.origin)

    def train(
        self, engine: str, method: Method = "gkd", steps: int | None = None, **settings: Any
    ) -> tuple[list[float], Meter, float]:
        """Seconds of each step but the first, what the meter counted, and tokens a second."""
        steps = (self.steps if steps is None else steps) + 1
        values = {**self.pair.settings, "learning_rate": 1e-5, **ENGINES[engine], **settings}
        asked = MethodSettings(**{**values, "max_steps": steps, "logging_steps": 1})
        ends: list[float] = []
        tokens: list[float] = []

        def report(_step: int, _total: int, metrics: dict[str, float]) -> None:
            ends.append(time.perf_counter())
            tokens.append(metrics["trained_tokens"])

        with contextlib.redirect_stdout(io.StringIO()):
            _, meter = job.distil(
                self.origin,
                self.material,
                self.place,
                model=job.starting_student(self.origin, self.material, self.place),
                teacher=self.origin.teacher,
                method=method,
                settings=effective(method, asked),
                seed=1,
                report=report,
            )
        seconds = [after - before for before, after in pairwise(ends)]
        rate = (tokens[-1] - tokens[0]) / sum(seconds) if seconds else 0.0
        return seconds, meter, rate

    def rows(self, names: list[str], slow: bool) -> Iterator[Row]:
        """The comparisons ``names``; with plain stock too if ``slow``."""
        engines = [engine for engine in ENGINES if slow or engine != "stock"]
        for name in names:
            say(f"{self.pair.name}: {name}")
            if name in STEPS:
                yield self._step(name, float(name.rpartition("_")[2]), engines)
            elif name == "on_policy":
                yield self._on_policy(engines)
            elif name == "supervised_kd_cached":
                yield self._cached()
            elif name == "rollout":
                yield self._rollout()
            elif name == "peak_memory":
                yield self._memory(slow)

    def _step(self, name: str, beta: float, engines: list[str]) -> Row:
        """Steps on identical sequences, teacher included, in the same order."""
        row = Row(name, self.pair.name, "s/step", higher=False)
        origin, self.origin = self.origin, self.origin.model_copy(update={"teacher_states_gib": 0})
        self.material = read_material(self.origin)
        for number in range(self.rounds):
            for engine in engines if number == 0 else engines[-2:]:
                more = {} if engine != "ours" else {"length_bucketing": False}
                row.add(engine, self.train(engine, lmbda=0.0, beta=beta, **more)[0])
        self.origin, self.material = origin, read_material(origin)
        return row

    def _on_policy(self, engines: list[str]) -> Row:
        row = Row("on_policy", self.pair.name, "tokens/s", higher=True)
        for number in range(self.rounds):
            for engine in engines if number == 0 else engines[-2:]:
                steps = 1 if engine == "stock" else None
                row.add(engine, [self.train(engine, steps=steps, lmbda=1.0, beta=0.5)[2]])
        return row

    def _cached(self) -> Row:
        """What every trial of supervised KD after the first one of a study sees."""
        row = Row("supervised_kd_cached", self.pair.name, "s/step", higher=False)
        origin, self.origin = self.origin, self.origin.model_copy(update={"teacher_states_gib": 9})
        self.material = read_material(self.origin)
        self.train("ours", "supervised_kd", steps=1)
        for _ in range(self.rounds):
            for engine in ("stock_tuned", "ours"):
                row.add(engine, self.train(engine, "supervised_kd")[0])
        self.origin, self.material = origin, read_material(origin)
        return row

    def _rollout(self) -> Row:
        """Sampling answers of mixed lengths, against ``model.generate``."""
        row = Row("rollout", self.pair.name, "tokens/s", higher=True)
        model = job.starting_student(self.origin, self.material, self.place)
        data = self.material.tokens(self.pair.settings["max_length"])
        window = self.pair.settings["per_device_train_batch_size"]
        window *= self.pair.settings["gradient_accumulation_steps"]
        prompts = [list(s.prompt) for s in data.sequences[:window]]
        options: dict[str, Any] = {
            "max_new_tokens": self.pair.settings["max_new_tokens"],
            "pad_id": int(self.material.tokenizer.pad_token_id),
            "end_ids": self._mixed_ends(model),
        }
        for number in range(3 * self.rounds + 1):
            for engine, sample in (("stock_tuned", _stock_rollout), ("ours", _our_rollout)):
                started = time.perf_counter()
                lengths = sample(model, prompts, seed=number, **options)
                if number:
                    row.add(engine, [sum(lengths) / (time.perf_counter() - started)])
        return row

    def _mixed_ends(self, model: Any) -> list[int]:
        """Tokens that end answers at mixed lengths.

        A student that has not learned to end gets a share of the vocabulary, so that an answer ends
        with a probability of 1/32 at each token; one that has, its own end tokens.
        """
        ends = models.end_token_ids(model, self.material.tokenizer)
        if self.pair.name == "quickstart":
            return ends
        size = model.config.vocab_size
        return sorted({*ends, *random.Random(0).sample(range(size), size // 32)})

    def _memory(self, slow: bool) -> Row:
        row = Row("peak_memory", self.pair.name, "GiB", higher=False)
        for engine in ENGINES if slow else list(ENGINES)[1:]:
            row.add(engine, [_peak(engine, 8, 512) - _peak(engine, 1, 32)])
        return row


def _stock_rollout(
    model: Any,
    prompts: list[list[int]],
    *,
    max_new_tokens: int,
    end_ids: list[int],
    pad_id: int,
    seed: int,
) -> list[int]:
    """Answer lengths from ``model.generate``, as a careful user calls it."""
    settings = GenerationConfig(
        max_new_tokens=max_new_tokens,
        do_sample=True,
        temperature=0.9,
        top_k=0,
        top_p=1.0,
        use_cache=True,
        eos_token_id=end_ids,
        pad_token_id=pad_id,
    )
    width = max(map(len, prompts))
    torch.manual_seed(seed)
    with torch.no_grad():
        tokens = model.generate(
            input_ids=torch.tensor([[pad_id] * (width - len(p)) + p for p in prompts]),
            attention_mask=torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts]),
            generation_config=settings,
        )[:, width:]
    ended = torch.isin(tokens, torch.tensor(end_ids))
    lengths = torch.where(ended.any(1), ended.int().argmax(1) + 1, tokens.shape[1])
    return [int(length) for length in lengths]


def _our_rollout(model: Any, prompts: list[list[int]], **options: Any) -> list[int]:
    found = rollouts.generate(model, prompts, temperature=0.9, batch_size=len(prompts), **options)
    return [len(rollout.tokens) for rollout in found]


def _peak(engine: str, batch: int, length: int) -> float:
    """GiB that a process needs at most in one training step, everything included."""
    command = [sys.executable, "-m", "benchmarks.engine", "--peak", engine, str(batch), str(length)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def _print_peak(engine: str, batch: int, length: int, threads: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pair = make("smollm2", folder, threads)
        file = Path(pair.origin.data_files[0])
        bench = Bench(pair, folder, threads, 1, 0)
        # A long text: half of it the prompt's, half the answer's.
        half = length // 2
        words = bench.material.tokenizer.decode([1000 + i % 4000 for i in range(2 * length)])
        row = json.dumps({"question": words[: 3 * half], "answer": words})
        file.write_text((row + "\n") * 8, encoding="utf-8")
        bench.material = read_material(bench.origin)
        bench.train(
            engine,
            steps=0,
            lmbda=0.0,
            beta=0.5,
            per_device_train_batch_size=batch,
            gradient_accumulation_steps=1,
            max_length=length,
            optim="sgd",
        )
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)


def say(text: str) -> None:
    """Progress, for people."""
    print(f"[{time.strftime('%H:%M:%S')}] {text}", file=sys.stderr, flush=True)


def table(rows: list[dict[str, Any]]) -> Table:
    """The rows for the terminal."""
    shown = Table(box=None, header_style="dim")
    shown.add_column("comparison")
    shown.add_column("pair")
    for header in ("stock", "tuned", "ours", "unit", "ours/tuned", "spread"):
        shown.add_column(header, justify="right")
    for row in rows:
        values = [row[engine] for engine in ENGINES]
        low, high = row["spread"]
        shown.add_row(
            row["name"],
            row["pair"],
            *("–" if value is None else f"{value:.3g}" for value in values),
            row["unit"],
            f"{row['ratio_to_tuned']:.2f}×",
            f"{low:.2f}–{high:.2f}",
        )
    return shown


def main() -> None:
    """Measure what is asked for."""
    everything = [*STEPS, "on_policy", "supervised_kd_cached", "rollout", "peak_memory"]
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="where to write the figures")
    parser.add_argument("--pairs", nargs="+", default=["quickstart", "smollm2"])
    parser.add_argument("--rows", nargs="+", default=everything, choices=everything)
    parser.add_argument("--rounds", type=int, default=2, help="how often the engines take turns")
    parser.add_argument("--steps", type=int, default=2, help="counted steps of each job")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--skip-stock", action="store_true", help="leave plain stock TRL out")
    parser.add_argument("--peak", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peak:
        engine, batch, length = options.peak
        _print_peak(engine, int(batch), int(length), options.threads)
        return
    found: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        for number, pair_name in enumerate(options.pairs):
            folder = Path(name) / str(number)
            folder.mkdir()
            pair = make(pair_name, folder, options.threads)
            bench = Bench(pair, folder, options.threads, options.rounds, options.steps)
            names = [n for n in options.rows if n != "peak_memory" or pair_name == "smollm2"]
            for row in bench.rows(names, not options.skip_stock):
                found.append(row.as_json())
                if options.json:  # after every row: all of them take long
                    about = {"torch": torch.__version__, "threads": options.threads, "rows": found}
                    options.json.write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    Console(width=120).print(table(found))


if __name__ == "__main__":
    main()
