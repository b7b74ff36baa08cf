"""GKD training in sweeper against stock TRL: ``python -m benchmarks.engine --json FILE``.

Every figure comes from whole training jobs, the same function that trials run, on the same rows in
the same order, the engines taking turns, each job in a process of its own. Seconds of a step are
from the end of one to the end of the next, so the first step of a job is not counted. The
rivals:

- ``stock``: TRL's ``GKDTrainer`` as it comes: bfloat16 autocast, gradient checkpointing, and so no
  key-value cache in rollouts;
- ``stock_tuned``: as well as its own options allow: no checkpointing, cache, ours' precision;
- ``distillation_trainer``: TRL's ``DistillationTrainer`` in ours' precision, without checkpointing.
  All its sequences are sampled, so it has the on-policy rows only;
- ``ours``: sweeper's engine.

The precision is the pair's own (float32 in the quickstart, bfloat16 autocast, TRL's default, on
SmolLM2) unless ``--precision`` says another. ``ratio_to_tuned`` says how many times better ours is
than tuned stock; ``spread`` is the lowest and the highest ratio of the repetitions.
``ratio_to_distillation_trainer`` and its spread say the same of that rival.
``--profile ROW`` shows what the seconds of our step go to. ``--cpu-seconds`` measures one thread on
a machine with other work.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

import torch
from rich.console import Console
from rich.table import Table
from torch.profiler import profile
from transformers import GenerationConfig

from benchmarks.pairs import make
from benchmarks.training import distil
from sweeper.config.settings import Method, MethodSettings
from sweeper.distillation.data.training_data import read_training_data, unpack_models
from sweeper.distillation.models import answer_ends
from sweeper.distillation.sampling import rollouts
from sweeper.distillation.start import starting_student
from sweeper.execution.worker.malloc import keep_freed_memory
from sweeper.records import Resources

ENGINES: dict[str, dict[str, Any]] = {
    "stock": {"engine": "trl", "bf16": True, "gradient_checkpointing": True},
    "stock_tuned": {"engine": "trl"},
    "distillation_trainer": {"engine": "trl-distillation"},
    "ours": {"engine": "sweeper"},
}
STEPS = ("step_beta_0.5", "step_beta_1", "step_beta_0")
ROWS = (*STEPS, "on_policy", "supervised_kd_cached", "rollout", "peak_memory", "longest_sequence")
ROOM_GIB = 16
"""What the longest sequence has to fit into."""
Result = TypeVar("Result")


@dataclass(frozen=True)
class Job:
    """One training job to measure."""

    pair: str
    folder: Path
    threads: int
    precision: str | None
    engine: str
    method: Method = "gkd"
    steps: int = 2
    """Number of counted steps; one more comes before them."""
    stored: bool = False
    """True if the teacher's states may be stored."""
    length: int | None = None
    """Length of all texts, in place of real lengths."""
    settings: dict[str, Any] = field(default_factory=dict)
    profiled: bool = False
    cpu_seconds: bool = False
    """True to count the process's seconds on a core, not those of the clock."""


@dataclass(frozen=True)
class Measured:
    """Measurements of one job."""

    seconds: list[float]
    """Seconds of each counted step."""
    tokens_per_second: float
    peak: float
    """Peak memory of the process in the counted steps, in GiB."""
    profile: str


def in_own_process(measure: Callable[..., Result], *arguments: Any) -> Result:
    """Call ``measure`` in a process that ends with it."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["sweeper.execution.worker.preload"])
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(measure, *arguments).result()


def train(asked: Job) -> Measured:
    """Do a job."""
    torch.set_num_threads(asked.threads)
    pair = make(asked.pair, asked.folder, asked.threads, asked.length)
    changes = {"teacher_states_gib": 9 if asked.stored else 0}
    inputs = unpack_models(pair.inputs).model_copy(update=changes)
    resources = Resources(directory=str(asked.folder), device="cpu", threads=asked.threads)
    training_data = read_training_data(inputs)
    own = {} if asked.precision is None else {"bf16": asked.precision == "bfloat16"}
    settings = MethodSettings(
        **{
            **pair.settings,
            "learning_rate": 1e-5,
            "max_steps": asked.steps + 1,
            "logging_steps": 1,
            **own,
            **ENGINES[asked.engine],
            **asked.settings,
        }
    )
    if asked.engine == "ours":
        keep_freed_memory()  # as trials do
    clock = time.process_time if asked.cpu_seconds else time.perf_counter
    ends: list[float] = []
    tokens: list[float] = []
    profiler = profile() if asked.profiled else None

    def report(_step: int, _total: int, metrics: dict[str, float]) -> None:
        if not ends:
            # From here on the kernel keeps the highest resident size anew.
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
            if profiler:
                profiler.start()
        ends.append(clock())
        tokens.append(metrics["trained_tokens"])

    distil(training_data, resources, asked.method, settings, report=report)
    shown = ""
    if profiler:
        profiler.stop()
        averages = profiler.key_averages()
        shown = averages.table("self_cpu_time_total", 12, max_name_column_width=45)
    seconds = [after - before for before, after in pairwise(ends)]
    rate = (tokens[-1] - tokens[0]) / sum(seconds)
    return Measured(seconds, rate, _peak_memory(), shown)


def _peak_memory() -> float:
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.partition("VmHWM:")[2].split()[0]) / 2**20


@dataclass
class Row:
    """Comparison of the engines; more is better if ``higher``."""

    name: str
    pair: str
    unit: str
    higher: bool
    values: dict[str, list[float]] = field(default_factory=dict)

    def add(self, engine: str, value: float) -> None:
        """Record what one repetition gave for an engine."""
        self.values.setdefault(engine, []).append(value)

    def median(self, engine: str) -> float | None:
        """Return the median of an engine's repetitions."""
        return statistics.median(self.values[engine]) if self.values.get(engine) else None

    def better(self, ours: float, tuned: float) -> float:
        """Return how many times better ours is."""
        return ours / tuned if self.higher else tuned / ours

    def as_json(self) -> dict[str, Any]:
        """Return the row of the report."""
        found: dict[str, Any] = {
            "name": self.name,
            "pair": self.pair,
            "unit": self.unit,
            **{engine: self.median(engine) for engine in ENGINES},
        }
        if "stock_tuned" in self.values:
            found |= self._ratio("stock_tuned", "ratio_to_tuned", "spread")
        name = "distillation_trainer"
        if name in self.values:
            found |= self._ratio(name, f"ratio_to_{name}", f"spread_to_{name}")
        return found

    def _ratio(self, rival: str, name: str, spread: str) -> dict[str, Any]:
        """Return how many times better ours is than ``rival``, and the spread of that."""
        pairs = zip(self.values["ours"], self.values[rival], strict=False)
        ratios = [self.better(ours, theirs) for ours, theirs in pairs]
        ours, theirs = self.median("ours"), self.median(rival)
        assert ours is not None and theirs is not None
        return {name: self.better(ours, theirs), spread: [min(ratios), max(ratios)]}


class Bench:
    """Measures on one pair.

    Args:
        base: What all jobs have in common.
        rounds: How often the engines take turns.
        engines: The rivals; plain stock only in the first round.
    """

    def __init__(self, base: Job, rounds: int, engines: list[str]) -> None:
        self.base, self.rounds, self.engines = base, rounds, engines

    def turns(self, one: bool = False, sampled: bool = False) -> Iterator[str]:
        """Return the engines, in turn; with ``sampled`` also the one that samples everything."""
        for number in range(1 if one else self.rounds):
            for engine in self.engines:
                if engine == "distillation_trainer" and not sampled:
                    continue
                if number == 0 or engine != "stock":
                    say(f"{self.base.pair}: {engine}")
                    yield engine

    def row(self, name: str) -> Row:
        """Return the comparison ``name``."""
        say(f"{self.base.pair}: {name}")
        if name == "rollout":
            return self._rollout()
        if name == "peak_memory":
            return self._peak_memory()
        if name == "longest_sequence":
            return self._longest_sequence()
        rate = name == "on_policy"
        row = Row(name, self.base.pair, "tokens/s" if rate else "s/step", higher=rate)
        if name == "supervised_kd_cached":
            # The first trial of a study stores the states; this is what all others see.
            in_own_process(train, replace(self.job(name, "ours"), steps=1))
        for engine in self.turns(sampled=rate):
            asked = self.job(name, engine)
            if engine == "stock":
                asked = replace(asked, steps=1)  # it takes minutes
            found = in_own_process(train, asked)
            seconds = statistics.median(found.seconds)
            row.add(engine, found.tokens_per_second if rate else seconds)
        return row

    def job(self, name: str, engine: str) -> Job:
        """Return the job to train for a row."""
        if name == "supervised_kd_cached":
            return replace(self.base, engine=engine, method="supervised_kd", stored=True)
        if name == "on_policy":
            return replace(self.base, engine=engine, settings={"lmbda": 1.0, "beta": 0.5})
        settings = {"lmbda": 0.0, "beta": float(name.rpartition("_")[2])}
        # Identical sequences: buckets would make other batches.
        more = {"length_bucketing": False} if engine == "ours" else {}
        return replace(self.base, engine=engine, settings={**settings, **more})

    def _rollout(self) -> Row:
        """Compare sampling of mixed lengths with ``model.generate``."""
        row = Row("rollout", self.base.pair, "tokens/s", higher=True)
        found = in_own_process(sample, self.base, 3 * self.rounds)
        for engine, rates in found.items():
            for value in rates:
                row.add(engine, value)
        return row

    def _peak(self, engine: str, batch: int, length: int) -> float:
        settings = {
            "lmbda": 0.0,
            "beta": 0.5,
            "per_device_train_batch_size": batch,
            "gradient_accumulation_steps": 1,
            "optim": "sgd",
        }
        asked = replace(self.base, engine=engine, steps=1, length=length, settings=settings)
        found = in_own_process(train, asked).peak
        say(f"{engine}: {batch} sequences of {length} tokens: {found:.2f} GiB")
        return found

    def _peak_memory(self) -> Row:
        """Above that of a step on next to nothing."""
        row = Row("peak_memory", self.base.pair, "GiB", higher=False)
        for engine in self.turns(one=True):
            row.add(engine, self._peak(engine, 8, 512) - self._peak(engine, 1, 128))
        return row

    def _longest_sequence(self) -> Row:
        """At batch 8: a guess from two measurements, then the next ones until it fits."""
        row = Row("longest_sequence", self.base.pair, "tokens", higher=True)
        for engine in self.turns(one=True):
            low, high = (self._peak(engine, 8, length) for length in (128, 256))
            guess = 256 + (ROOM_GIB - high) / (high - low) * 128
            length = min(8192, int(guess) // 64 * 64)
            while self._peak(engine, 8, length) > ROOM_GIB:
                length -= 64
            row.add(engine, length)
        return row


def sample(asked: Job, repetitions: int) -> dict[str, list[float]]:
    """Tokens per second of rollouts, of ``model.generate`` and of ours, in turns."""
    torch.set_num_threads(asked.threads)
    pair = make(asked.pair, asked.folder, asked.threads)
    inputs = unpack_models(pair.inputs)
    training_data = read_training_data(inputs)
    resources = Resources(directory=str(asked.folder), device="cpu", threads=asked.threads)
    model = starting_student(training_data, resources)
    window = pair.settings["per_device_train_batch_size"]
    window *= pair.settings["gradient_accumulation_steps"]
    sequences = training_data.tokens(pair.settings["max_length"]).sequences[:window]
    prompts = [list(sequence.prompt) for sequence in sequences]
    ends = answer_ends.end_token_ids(model, training_data.tokenizer)
    if asked.pair != "quickstart":
        # This student has not learned to end: let each token end its answer by 1 in 32.
        size = model.config.vocab_size
        ends = sorted({*ends, *random.Random(0).sample(range(size), size // 32)})
    options: dict[str, Any] = {
        "max_new_tokens": pair.settings["max_new_tokens"],
        "pad_id": int(training_data.tokenizer.pad_token_id),
        "end_ids": ends,
    }
    found: dict[str, list[float]] = {"stock_tuned": [], "ours": []}
    for number in range(repetitions + 1):
        for engine, generate in (("stock_tuned", _stock_rollout), ("ours", _our_rollout)):
            started = time.perf_counter()
            lengths = generate(model, prompts, seed=number, **options)
            if number:
                found[engine].append(sum(lengths) / (time.perf_counter() - started))
    return found


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


def say(text: str) -> None:
    """Print progress."""
    print(f"[{time.strftime('%H:%M:%S')}] {text}", file=sys.stderr, flush=True)


def table(rows: list[dict[str, Any]]) -> Table:
    """Return the rows for the terminal."""
    shown = Table(box=None, header_style="dim")
    shown.add_column("comparison")
    shown.add_column("pair")
    headers = ("stock", "tuned", "distillation", "ours", "unit", "ours/tuned", "spread")
    for header in (*headers, "ours/distillation"):
        shown.add_column(header, justify="right")
    for row in rows:
        values = [row[engine] for engine in ENGINES]
        low, high = row.get("spread", (0, 0))
        shown.add_row(
            row["name"],
            row["pair"],
            *("–" if value is None else f"{value:.3g}" for value in values),
            row["unit"],
            f"{tuned:.2f}×" if (tuned := row.get("ratio_to_tuned")) else "",
            f"{low:.2f}–{high:.2f}" if high else "",
            f"{rival:.2f}×" if (rival := row.get("ratio_to_distillation_trainer")) else "",
        )
    return shown


def main() -> None:
    """Measure the requested comparisons."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="where to write the figures")
    parser.add_argument("--pairs", nargs="+", default=["quickstart", "smollm2"])
    parser.add_argument("--rows", nargs="+", default=ROWS, choices=ROWS)
    parser.add_argument("--rounds", type=int, default=2, help="how often the engines take turns")
    parser.add_argument("--steps", type=int, help="counted in each job: 40 and 2 by default")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument(
        "--cpu-seconds",
        action="store_true",
        help="count seconds on a core, for a machine with other work; takes one thread",
    )
    parser.add_argument("--precision", choices=["float32", "bfloat16"])
    parser.add_argument("--skip-stock", action="store_true", help="leave plain stock TRL out")
    parser.add_argument("--skip", nargs="+", default=(), choices=ENGINES, help="leave these out")
    parser.add_argument("--profile", choices=ROWS[:5], help="profile our steps of a row instead")
    options = parser.parse_args()
    found: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        for pair in options.pairs:
            folder = Path(name) / pair
            folder.mkdir()
            steps = options.steps or (40 if pair == "quickstart" else 2)
            base = Job(
                pair,
                folder,
                1 if options.cpu_seconds else options.threads,
                options.precision,
                "ours",
                steps=steps,
                cpu_seconds=options.cpu_seconds,
            )
            left_out = {"stock"} if options.skip_stock else set()
            engines = [engine for engine in ENGINES if engine not in left_out | {*options.skip}]
            bench = Bench(base, options.rounds, engines)
            if options.profile:
                asked = replace(bench.job(options.profile, "ours"), profiled=True)
                print(in_own_process(train, asked).profile)
                continue
            # Memory is what a large vocabulary costs.
            names = [n for n in options.rows if pair != "quickstart" or n not in ROWS[-2:]]
            for row in map(bench.row, names):
                found.append(row.as_json())
                if options.json:  # after every row: all of them take long
                    about = {
                        "torch": torch.__version__,
                        "threads": base.threads,
                        "seconds": "of a core" if base.cpu_seconds else "of the clock",
                        "onednn_max_cpu_isa": os.environ.get("ONEDNN_MAX_CPU_ISA"),
                        "rows": found,
                    }
                    options.json.write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    if found:
        Console(width=120).print(table(found))


if __name__ == "__main__":
    main()
