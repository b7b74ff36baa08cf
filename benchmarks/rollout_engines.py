"""Tokens per second of the engines of rollouts that need no server, on one step's prompts.

``python -m benchmarks.rollout_engines``. The engines take turns; each row is the fastest round,
with the mean difference of the log-probabilities that it reports from the student's.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.pairs import make
from sweeper.config.rollouts import RolloutEngine
from sweeper.distillation.data.training_data import read_training_data, unpack_models
from sweeper.distillation.models.answer_ends import end_token_ids
from sweeper.distillation.sampling.engine_test import SampledWindow, run_engine
from sweeper.distillation.sampling.engines import engine_of
from sweeper.distillation.start import starting_student
from sweeper.records import EngineTest, Resources

ENGINES: tuple[RolloutEngine, ...] = ("sweeper", "transformers")


def measure(pair: str, precision: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Return the fastest round of each engine."""
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as name:
        made = make(pair, Path(name), options.threads)
        data = read_training_data(unpack_models(made.inputs))
        place = Resources(directory=name, device=options.device, threads=options.threads)
        model = starting_student(data, place)
        sequences = data.tokens(made.settings["max_length"]).sequences
        window = SampledWindow(
            model=model,
            prompts=[list(sequence.prompt) for sequence in sequences[: options.prompts]],
            temperature=1.0,
            max_new_tokens=made.settings["max_new_tokens"],
            end_ids=end_token_ids(model, data.tokenizer),
            pad_id=int(data.tokenizer.pad_token_id),
            seed=1,
            batch_size=options.prompts,
            autocast=torch.autocast(
                options.device.partition(":")[0], torch.bfloat16, enabled=precision == "bfloat16"
            ),
        )
        best: dict[str, EngineTest] = {}
        for _ in range(options.rounds):
            for engine in ENGINES:
                found = run_engine(engine, engine_of(engine, place, None), window, limit=0.05)
                before = best.get(engine)
                if before is None or (found.tokens_per_second or 0) > (
                    before.tokens_per_second or 0
                ):
                    best[engine] = found
    return [
        {
            "pair": pair,
            "precision": precision,
            "prompts": len(window.prompts),
            "engine": engine,
            "tokens_per_second": found.tokens_per_second,
            "logprob_diff": found.logprob_diff,
            "problem": found.problem,
        }
        for engine, found in best.items()
    ]


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="where to write the figures")
    parser.add_argument("--pairs", nargs="+", default=["quickstart", "smollm2"])
    parser.add_argument("--precisions", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--prompts", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=2, help="how often the engines take turns")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    rows = [
        row
        for pair in options.pairs
        for precision in options.precisions
        for row in measure(pair, precision, options)
    ]
    shown = Table("pair", "precision", "engine", "tokens/s", "log-prob. difference", "problem")
    for row in rows:
        difference = row["logprob_diff"]
        shown.add_row(
            row["pair"],
            row["precision"],
            row["engine"],
            f"{row['tokens_per_second']:,.0f}",
            "" if difference is None else f"{difference:.1e}",
            row["problem"] or "",
        )
    Console(width=120).print(shown)
    if options.json:
        about = {"torch": torch.__version__, "threads": options.threads, "rows": rows}
        options.json.write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
