"""What served models cost and give: ``python -m benchmarks.served --json FILE``; needs vLLM.

*Start*: a study of two on-policy trials, one after the other, whose rollouts vLLM samples. Seconds
of the server's start; and of each trial, from its start to its first trained rollouts. A tool that
starts an engine in every trial pays the server's start in each.

*Teacher*: tokens a second of a served teacher's answers by the number of prompts asked at a time,
greedy, each prompt once in its life.

The models are small ones by default; ``--student`` and ``--teacher`` name others, on whatever
device there is.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.engine import say
from sweeper.config.loading import load_study
from sweeper.distillation.data.training_data import read_training_data
from sweeper.distillation.teacher.served_answers import ask_all
from sweeper.distillation.teacher.served_prompts import requests
from sweeper.execution.devices import find_devices
from sweeper.records import Resources
from sweeper.records.layout import StudyPaths
from sweeper.serving.start_log import read_server_record
from sweeper.study.manifest import open_manifest
from sweeper.study.preparation import make_study_inputs
from sweeper.study.served_models import ServedModels
from tests.support.tiny_studies import ROOT

CONCURRENCY = (1, 4, 16, 64)
ROWS, LONGEST = 128, 48


def study_text(student: dict[str, Any], teacher: str, **keys: Any) -> str:
    """Return a study of two trials, as JSON, which is YAML."""
    return json.dumps(
        {
            "study": "served",
            "teacher": {"model": teacher, **keys.pop("teacher_keys", {})},
            "student": student,
            "data": {"train": {"path": "builtin/addition", "limit": ROWS}},
            "teacher_outputs": {"max_new_tokens": LONGEST},
            "training": {
                "max_steps": 4,
                "per_device_train_batch_size": 8,
                "gradient_accumulation_steps": 2,
                "max_length": 128,
                "logging_steps": 1,
            },
            "trials": 2,
            "evaluation": {"selection": str(ROOT / "eval_suites/addition-selection.yaml")},
            **keys,
        }
    )


def first_rollouts(folder: Path, student: dict[str, Any], teacher: str) -> dict[str, Any]:
    """Measure seconds of a student's server and of the first two trials on its device."""
    lmbda = {"type": "float", "low": 0.9, "high": 1.0}
    text = study_text(
        student,
        teacher,
        rollouts={"engine": "vllm"},
        arms={"gkd": {"search": {"lmbda": lmbda}, "settings": {"max_new_tokens": LONGEST}}},
        compute={"workers": 1, "vllm": {"max_length": 128}},
    )
    (folder / "study.yaml").write_text(text)
    command = [sys.executable, "-m", "sweeper", "run", "study.yaml", "--cache-dir", "cache"]
    # The first run fills the cache, with the weights that the server starts with.
    subprocess.run([*command, "--set", "study=fill", "--set", "trials=1"], cwd=folder, check=True)
    subprocess.run(command, cwd=folder, check=True)
    paths = StudyPaths(folder / "runs", "served")
    [server] = paths.servers()
    record = read_server_record(server.record)
    assert record is not None
    [start] = record.starts
    assert start.ready_after is not None
    found = {"start_seconds": start.ready_after, "starts": len(record.starts)}
    for number, name in enumerate(("first", "second")):
        files = paths.trial("gkd", number)
        begun = json.loads(files.outcome.read_text())["started"]
        rows = [json.loads(line) for line in files.progress.read_text().splitlines()]
        trained = next(row["time"] for row in rows if row.get("metrics", {}).get("rollouts"))
        found[f"{name}_trial_seconds"] = trained - begun
    found["ratio"] = (start.ready_after + found["second_trial_seconds"]) / found[
        "second_trial_seconds"
    ]
    return found


def teacher_speed(folder: Path, student: dict[str, Any], teacher: str) -> dict[str, Any]:
    """Measure tokens of answers a second, by the number of prompts asked at a time."""
    server = {"start": "vllm", "max_length": 128}
    text = study_text(student, teacher, teacher_keys={"server": server}, arms={"seqkd": {}})
    (folder / "teacher.yaml").write_text(text)
    study = load_study(folder / "teacher.yaml")
    paths = StudyPaths(folder / "served", study.config.study)
    paths.directory.mkdir(parents=True)
    manifest = open_manifest(study, paths, ["benchmark"], 1)
    inputs = make_study_inputs(study, manifest, folder / "cache")
    data = read_training_data(inputs)
    found = {}
    with ServedModels(study, paths, manifest, find_devices("auto")) as served:
        served.serve(("teacher",), ("teacher",), lambda what: None, lambda: None)
        place = served.place(Resources(directory=str(folder), device="cpu", threads=1))
        prompts = requests(data, data.asked_of(inputs.teacher), study.config.teacher.server)
        for concurrency in (CONCURRENCY[-1], *CONCURRENCY):  # the first warms up
            asked = inputs.teacher.server.model_copy(update={"concurrency": concurrency})
            model = inputs.teacher.model_copy(update={"server": asked})
            cache = folder / f"answers-{concurrency}-{len(found)}"
            started = time.perf_counter()
            replies = ask_all(model, prompts, cache, LONGEST, served=place.served_teacher)
            seconds = time.perf_counter() - started
            tokens = sum(reply.completion_tokens for reply in replies)
            found[str(concurrency)] = tokens / seconds
    return dict(sorted(found.items(), key=lambda item: int(item[0])))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--teacher", default="builtin/adder-teacher")
    parser.add_argument("--student", help="by default two layers of the built-in teacher")
    options = parser.parse_args()
    student = {"model": options.student} if options.student else DEFAULT_STUDENT
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        results = {
            "device": ", ".join(find_devices("auto")),
            "machine": f"{os.cpu_count()} cores, {platform.machine()}",
            "student": student["model"],
            "teacher": options.teacher,
            "start": first_rollouts(folder, student, options.teacher),
            "teacher_tokens_per_second": teacher_speed(folder, student, options.teacher),
        }
    say(json.dumps(results, indent=1))
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n")


DEFAULT_STUDENT = {"model": "builtin/adder-teacher", "keep_layers": 2}
"""The built-in student's heads are of a size that vLLM for CPUs does not compute."""


if __name__ == "__main__":
    main()
