"""One trial as a careful user scripts it today: TRL trains, lm_eval scores, MLflow records.

Everything that TRL offers for speed on a CPU is on: no checkpointing, KV cache, the same precision.
``python -m benchmarks.scripted_trial job.json``; ``benchmarks/study.py`` writes the job.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any


def train(job: dict[str, Any]) -> None:
    """Distil with stock TRL and save the student."""
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl.experimental.gkd import GKDConfig, GKDTrainer

    torch.set_num_threads(job["threads"])
    tokenizer = AutoTokenizer.from_pretrained(job["student"])
    if job["template"]:
        tokenizer.chat_template = job["template"]
    arguments = GKDConfig(
        output_dir=job["output"],
        use_cpu=True,
        gradient_checkpointing=False,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
        logging_steps=5,
        seed=job["seed"],
        **job["arguments"],
    )
    trainer = GKDTrainer(
        model=AutoModelForCausalLM.from_pretrained(job["student"], dtype=torch.float32),
        teacher_model=AutoModelForCausalLM.from_pretrained(job["teacher"], dtype=torch.float32),
        args=arguments,
        processing_class=tokenizer,
        train_dataset=Dataset.from_list(job["rows"]),
    )
    trainer.train()
    trainer.save_model(job["output"])


def score(job: dict[str, Any]) -> float:
    """Return the saved student's score, by lm_eval's own command."""
    command = [str(Path(sys.executable).with_name("lm_eval")), "run", "--model", "hf"]
    command += ["--model_args", f"pretrained={job['output']},dtype=float32"]
    command += ["--tasks", job["task"], "--include_path", job["tasks"], "--device", "cpu"]
    command += ["--batch_size", "64", "--output_path", f"{job['output']}/scores"]
    command += ["--samples", json.dumps({job["task"]: job["documents"]})]
    if job["chat"]:
        command += ["--apply_chat_template"]
    # The data file is named relative to the task.
    subprocess.run(command, cwd=job["tasks"], check=True, capture_output=True)
    [found] = Path(job["output"]).glob("scores/**/results_*.json")
    metrics = json.loads(found.read_text(encoding="utf-8"))["results"][job["task"]]
    return float(next(v for k, v in metrics.items() if k.startswith("exact_match,")))


def record(job: dict[str, Any], value: float) -> None:
    """Record the trial in MLflow."""
    import mlflow

    mlflow.set_tracking_uri(job["mlflow"])
    mlflow.set_experiment("scripted")
    with mlflow.start_run(run_name=job["name"]):
        mlflow.log_params(job["arguments"])
        mlflow.log_metric("exact_match", value)


def main() -> None:
    """Train, score, record."""
    job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    train(job)
    record(job, score(job))


if __name__ == "__main__":
    main()
