"""Whole studies: ``sweeper run`` against a script: ``python -m benchmarks.study --json FILE``.

The script runs the same trials with the same sampled parameters, one process after the other (see
``scripted_trial.py``); sweeper has one worker. ``ratio`` is the script's wall time over sweeper's;
``overhead_share`` is the part of sweeper's wall time that is neither training (what is prepared for
all trials included: the teacher's answers and states, a warm start) nor evaluation (the distance
from the teacher on held-out text included).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from benchmarks.engine import say
from benchmarks.pairs import ROOT, Pair, make
from sweeper.distillation.data.training_data import read_training_data, unpack_models
from sweeper.distillation.models.loading import location
from sweeper.distillation.start import starting_student
from sweeper.records import Resources

PARTS = ("rollout", "teacher", "student", "optimiser", "diagnostics", "evaluation")
PHASES = ("warm start", "train", "teacher outputs", "teacher states", "score")
"""Of the preparation."""
GKD = """\
    search:
      lmbda: {{type: float, low: 0.0, high: 1.0}}
      beta: {{type: categorical, choices: [0.0, 0.1, 0.5, 0.9, 1.0]}}
      temperature: {{type: float, low: 0.3, high: 1.0}}
      max_new_tokens: {{type: int, low: 32, high: {longest}, step: 16}}
"""
TASK = """\
task: gsm8k-rows
dataset_path: json
dataset_kwargs: {data_files: {test: rows.jsonl}}
test_split: test
output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: "{{answer.split('####')[1].strip()}}"
generation_kwargs: {until: ["\\n\\n"], do_sample: false, max_gen_toks: 64}
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
metadata: {version: 1.0}
"""


def write_study(pair: Pair, folder: Path, trials: int, steps: int) -> Path:
    """Write the study file of the pair, with its suite."""
    inputs, settings = pair.inputs, pair.settings
    tasks = folder / "tasks"
    tasks.mkdir()
    if pair.name == "quickstart":
        suite = (ROOT / "eval_suites" / "addition-selection.yaml").read_text(encoding="utf-8")
        for name in ("tasks", "data"):
            for file in (ROOT / "eval_suites" / name).iterdir():
                (folder / name).mkdir(exist_ok=True)
                (folder / name / file.name).write_bytes(file.read_bytes())
    else:
        rows = (ROOT / "tests" / "data" / "gsm8k-test.jsonl").read_bytes()
        (tasks / "rows.jsonl").write_bytes(rows)
        (tasks / "gsm8k-rows.yaml").write_text(TASK, encoding="utf-8")
        suite = "suite: s\ntasks: [{task: gsm8k-rows, metric: exact_match}]\n"
    (folder / "suite.yaml").write_text(suite, encoding="utf-8")
    train = inputs.data.train.model_dump(exclude_unset=True)
    keys = {**settings, "max_steps": steps, "learning_rate": 1e-3}
    longest = keys.pop("max_new_tokens")
    text = f"study: {pair.name}\nseed: 1\ntrials: {trials}\n"
    text += f"teacher: {json.dumps({'model': inputs.teacher.model})}\n"
    text += f"student: {json.dumps(inputs.student.model_dump(exclude_unset=True))}\n"
    text += f"data: {json.dumps({'train': train})}\ntraining: {json.dumps(keys)}\n"
    text += "arms:\n  gkd:\n" + GKD.format(longest=longest)
    text += "sampler: {type: random}\n"
    text += "evaluation: {selection: suite.yaml}\ncompute: {workers: 1, device: cpu}\n"
    path = folder / "study.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def run_sweeper(study: Path, name: str) -> tuple[float, float, list[dict[str, Any]]]:
    """Wall seconds, the share of overhead, and the trials' specs."""
    folder = study.parent
    command = [sys.executable, "-m", "sweeper", "run", str(study), "--runs", str(folder / "runs")]
    command += ["--reports", str(folder / "reports"), "--cache-dir", str(folder / "cache")]
    started = time.perf_counter()
    subprocess.run(command, check=True, cwd=folder, capture_output=True, env=_environment())
    wall = time.perf_counter() - started
    runs = folder / "runs" / name
    specs, useful = [], 0.0
    for path in sorted(runs.glob("arms/*/*/outcome.json")):
        outcome = json.loads(path.read_text(encoding="utf-8"))
        seconds = outcome["cost"]["seconds"]
        useful += sum(seconds.get(part, 0.0) for part in PARTS)
        specs.append(json.loads(path.with_name("spec.json").read_text(encoding="utf-8")))
    for path in runs.glob("preparation/*/outcome.json"):
        lines = path.with_name("progress.jsonl").read_text(encoding="utf-8").splitlines()
        points = [(row["phase"], row["time"]) for row in map(json.loads, lines)]
        points.append(("", json.loads(path.read_text(encoding="utf-8"))["finished"]))
        useful += sum(end - start for (p, start), (_, end) in pairwise(points) if p in PHASES)
    return wall, 1 - useful / wall, specs


def run_script(pair: Pair, folder: Path, specs: list[dict[str, Any]], threads: int) -> float:
    """Wall seconds of the same trials, scripted."""
    inputs = unpack_models(pair.inputs)
    training_data = read_training_data(inputs)
    student = folder / "student"
    place = Resources(directory=str(folder), device="cpu", threads=threads)
    starting_student(training_data, place).save_pretrained(student)
    training_data.tokenizer.save_pretrained(student)
    rows = [
        {"messages": [*e.messages, {"role": "assistant", "content": e.completion}]}
        for e in training_data.examples
    ]
    quick = pair.name == "quickstart"
    seconds = 0.0
    for spec in specs:
        settings = spec["settings"]
        names = [name for name in pair.settings if name != "max_new_tokens"]
        names += ["max_steps", "learning_rate", "lmbda", "beta", "temperature", "max_new_tokens"]
        job = {
            "name": f"trial {spec['number']}",
            "threads": threads,
            "seed": spec["seed"] % 2**31,
            "teacher": location(inputs.teacher.model),
            "student": str(student),
            "template": str(training_data.tokenizer.chat_template),
            "chat": not quick,
            "rows": rows,
            "arguments": {name: settings[name] for name in names},
            "task": "addition" if quick else "gsm8k-rows",
            "tasks": str(folder / "tasks"),
            "documents": list(range(200 if quick else 16)),
            "output": str(folder / f"scripted-{spec['number']}"),
            "mlflow": f"sqlite:///{folder}/scripted.db",
        }
        path = folder / f"job-{spec['number']}.json"
        path.write_text(json.dumps(job), encoding="utf-8")
        command = [sys.executable, "-m", "benchmarks.scripted_trial", str(path)]
        started = time.perf_counter()
        subprocess.run(command, check=True, cwd=ROOT, capture_output=True, env=_environment())
        seconds += time.perf_counter() - started
        say(f"{pair.name}: scripted trial {spec['number']}")
    return seconds


def _environment() -> dict[str, str]:
    return {**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}


def main() -> None:
    """Run both and compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--pairs", nargs="+", default=["quickstart", "smollm2"])
    parser.add_argument("--trials", type=int, help="by default 12 on quickstart, 4 on smollm2")
    parser.add_argument("--steps", type=int, help="by default 80 on quickstart, 16 on smollm2")
    parser.add_argument("--skip-script", action="store_true", help="only what sweeper takes")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    found = []
    for name in options.pairs:
        trials, steps = {"quickstart": (12, 80), "smollm2": (4, 16)}[name]
        trials, steps = options.trials or trials, options.steps or steps
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            pair = make(name, folder, options.threads)
            study = write_study(pair, folder, trials, steps)
            say(f"{name}: sweeper, {trials} trials of {steps} steps")
            wall, overhead, specs = run_sweeper(study, name)
            say(f"{name}: sweeper took {wall:.0f} s, {overhead:.1%} of it overhead")
            scripted = None
            if not options.skip_script:
                scripted = run_script(pair, folder, specs, options.threads)
        row = {
            "pair": name,
            "trials": trials,
            "steps": steps,
            "sweeper_seconds": wall,
            "script_seconds": scripted,
            "ratio": scripted / wall if scripted else None,
            "overhead_share": overhead,
        }
        found.append(row)
        print(json.dumps(row, indent=1))
    if options.json:
        options.json.write_text(json.dumps({"pairs": found}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
