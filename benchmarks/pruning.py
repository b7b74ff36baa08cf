"""The same search with and without pruning: ``python -m benchmarks.pruning --json FILE``.

The built-in teacher, a student that is the same without one of its four layers, one GKD arm,
several seeds; for each seed one study without a pruner and one for
each pruner, with the same sampler and number of trials, one after the other. ``seconds`` is the sum
of all trials' device-seconds, intermediate scores included; ``share`` is a pruner's sum over the
one without; ``behind`` is how much worse its best score is, in standard errors (the larger of the
two). With ``--sampler random`` the trials of both studies are the same ones, so that ``behind`` is
the pruner's doing alone.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from benchmarks.engine import say
from benchmarks.pairs import ROOT

STUDY = """\
study: pruning
seed: {seed}
trials: {trials}
teacher: {{model: builtin/adder-teacher}}
student: {{model: builtin/adder-teacher, keep_layers: [0, 1, 3]}}
data: {{train: {{path: builtin/addition}}}}
training:
  max_steps: {steps}
  per_device_train_batch_size: 32
  max_length: 96
  learning_rate: 2.0e-3
  lr_scheduler_type: {schedule}
arms:
  gkd:
    settings: {{max_new_tokens: 64}}
    search:
      lmbda: {{type: float, low: 0.0, high: 1.0}}
      beta: {{type: categorical, choices: [0.0, 0.1, 0.5, 0.9, 1.0]}}
      temperature: {{type: float, low: 0.3, high: 1.0}}
      learning_rate: {{type: float, low: 1.0e-4, high: 1.0e-2, log: true}}
sampler: {sampler}
pruner: {pruner}
evaluation: {{selection: addition-selection.yaml, batch_size: 200}}
compute: {{workers: 1, threads_per_worker: 1, device: cpu}}
"""


def run(
    folder: Path,
    pruner: str,
    seed: int,
    asked: argparse.Namespace,
    changes: Mapping[str, str] = MappingProxyType({}),
) -> dict[str, Any]:
    """Run one study and return its results and costs; ``changes`` are lines to replace."""
    text = STUDY.format(
        pruner=pruner,
        seed=seed,
        trials=asked.trials,
        steps=asked.steps,
        sampler=asked.sampler,
        schedule=asked.schedule,
    )
    for line, other in changes.items():
        assert line in text
        text = text.replace(line, other)
    (folder / "study.yaml").write_text(text, encoding="utf-8")
    name = "".join(letter if letter.isalnum() else "-" for letter in f"{seed}-{pruner}")
    runs = folder / "runs" / name
    command = [sys.executable, "-m", "sweeper", "run", str(folder / "study.yaml")]
    command += ["--runs", str(runs), "--reports", str(folder / "reports")]
    command += ["--cache-dir", str(folder / "cache")]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    suites = ROOT / "eval_suites"
    subprocess.run(command, check=True, cwd=suites, capture_output=True, env=environment)
    outcomes = [
        json.loads(path.read_text(encoding="utf-8"))
        for path in runs.glob("pruning/arms/*/*/outcome.json")
    ]
    best = max((o["scores"] for o in outcomes if o["scores"]), key=lambda found: found["score"])
    return {
        "seed": seed,
        "pruner": pruner,
        "best": best["score"],
        "stderr": best["stderr"],
        "seconds": sum(o["cost"]["device_seconds"] for o in outcomes),
        "steps": sum(o["cost"]["steps"] for o in outcomes),
        "completed": sum(o["state"] == "completed" for o in outcomes),
        "pruned": sum(o["state"] == "pruned" for o in outcomes),
    }


def main() -> None:
    """Run every pruner and none, seed by seed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--pruners", nargs="+", default=["asha"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--steps", type=int, default=90)
    parser.add_argument("--sampler", default="random")
    parser.add_argument("--schedule", default="linear", help="Of the learning rate.")
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as place:
        for seed in range(options.seeds):
            for pruner in ["none", *options.pruners]:
                row = run(Path(place), pruner, seed, options)
                whole = row if pruner == "none" else rows[-1 - options.pruners.index(pruner)]
                row["share"] = row["seconds"] / whole["seconds"]
                error = max(whole["stderr"], row["stderr"])
                row["behind"] = (whole["best"] - row["best"]) / error if error else 0.0
                rows.append(row)
                say(
                    f"seed {seed} {pruner}: best {row['best']:.3f} ± {row['stderr']:.3f},"
                    f" {row['seconds']:.0f} device-seconds ({row['share']:.2f}),"
                    f" {row['completed']} completed, {row['pruned']} pruned"
                )
    summary = {
        pruner: {
            "share": sum(r["seconds"] for r in rows if r["pruner"] == pruner)
            / sum(r["seconds"] for r in rows if r["pruner"] == "none"),
            "share_of_steps": sum(r["steps"] for r in rows if r["pruner"] == pruner)
            / sum(r["steps"] for r in rows if r["pruner"] == "none"),
            "worst_behind": max(r["behind"] for r in rows if r["pruner"] == pruner),
            "mean_behind": sum(r["behind"] for r in rows if r["pruner"] == pruner) / options.seeds,
        }
        for pruner in options.pruners
    }
    print(json.dumps(summary, indent=1))
    if options.json:
        asked = {name: value for name, value in vars(options).items() if name != "json"}
        found = {"asked": asked, "summary": summary, "studies": rows}
        options.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
