"""Which layers SmolLM2 can spare: ``python -m benchmarks.layer_cuts --json FILE``.

For each cut, a student made from the layers that are left is scored on the selection suite of
``studies/smollm2.yaml``, trained for a few steps on the study's reference answers, as its arm
``sft`` is, and scored again. ``spread`` leaves out layers at even distances, as ``keep_layers: 24``
does; ``block`` leaves out one block, just before the last two layers. Everything is trained but in
the rows ``adapter``, which train a LoRA adapter on the ``spread`` cut. One process a cut, two at a
time (``--processes``), one thread each.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from benchmarks.engine import say
from benchmarks.pairs import ROOT

STUDY = ROOT / "studies" / "smollm2.yaml"
LAYERS = 30
SPREAD = (28, 26, 24, 22, 20)
BLOCK = (26, 24, 22)
ADAPTER = (24,)
RANK = 16


@dataclass(frozen=True)
class Cut:
    """A student to measure; all layers are the teacher, which is not trained."""

    how: str
    kept: tuple[int, ...]
    rate: float = 0.0
    """The learning rate."""
    rank: int | None = None
    """Rank of an adapter."""


def cuts(asked: argparse.Namespace) -> list[Cut]:
    """Return the teacher, and the cuts that leave so many layers."""
    from sweeper.distillation.models.layer_dropping import spread

    found = [Cut("teacher", tuple(range(LAYERS)))]
    for rate in asked.rates:
        found += [Cut("spread", spread(count, LAYERS), rate) for count in asked.spread]
    for count in asked.block:
        found.append(Cut("block", (*range(count - 2), LAYERS - 2, LAYERS - 1), asked.rates[0]))
    for rate in asked.adapter_rates:
        found += [Cut("adapter", spread(count, LAYERS), rate, RANK) for count in asked.adapter]
    return found


def measure(cut: Cut, steps: int) -> dict[str, Any]:
    """Scores by task before and after the training, and what it took."""
    import torch

    from sweeper.config.loading import load_study
    from sweeper.config.models import LoraConfig
    from sweeper.config.settings import resolve
    from sweeper.distillation.data.training_data import read_training_data, unpack_models
    from sweeper.distillation.models.answer_ends import end_token_ids
    from sweeper.distillation.start import starting_student
    from sweeper.distillation.train import TrainingJob, distil
    from sweeper.evaluation.scoring import score
    from sweeper.foundation.cache import default_root
    from sweeper.records import Resources, StudyInputs
    from sweeper.study.manifest import suite_spec

    torch.set_num_threads(1)
    study = load_study(STUDY, [])
    config, suite = study.config, suite_spec(study.selection)
    lora = LoraConfig(r=cut.rank, alpha=2 * cut.rank) if cut.rank else None
    inputs = StudyInputs(
        study=config.study,
        seed=config.seed,
        teacher=config.teacher,
        student=config.student.model_copy(update={"keep_layers": cut.kept, "lora": lora}),
        warm_start=None,
        data=config.data,
        teacher_outputs=config.teacher_outputs,
        training=config.training,
        evaluation=config.evaluation,
        cache=str(default_root()),
    )
    training_data = read_training_data(unpack_models(inputs))

    def scores(model: Any) -> dict[str, float]:
        found = score(
            model,
            training_data.tokenizer,
            suite,
            batch_size=config.evaluation.batch_size,
            chat=True,
            end_ids=end_token_ids(model, training_data.tokenizer),
            system_prompt=config.data.system_prompt,
        )
        return {task.task: round(task.score, 4) for task in found.scores.tasks}

    with tempfile.TemporaryDirectory() as directory:
        resources = Resources(directory=directory, device="cpu", threads=1)
        model = starting_student(training_data, resources)
        row: dict[str, Any] = {
            "how": cut.how,
            "layers": len(cut.kept),
            "million_parameters": round(sum(p.numel() for p in model.parameters()) / 1e6, 1),
            "before": scores(model),
        }
        if cut.how != "teacher":
            row["learning_rate"] = cut.rate
            settings = resolve(config.training, {"max_steps": steps, "learning_rate": cut.rate})
            started = time.perf_counter()
            job = TrainingJob(
                data=training_data,
                resources=resources,
                model=model,
                teacher=training_data.inputs.teacher,
                method="sft",
                settings=settings,
                seed=1,
            )
            trained, _ = distil(job)
            row["seconds"] = round(time.perf_counter() - started, 1)
            row["after"] = scores(trained)
    return row


def main() -> None:
    """Print a line a cut and, if asked, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--spread", type=int, nargs="*", default=SPREAD)
    parser.add_argument("--block", type=int, nargs="*", default=BLOCK)
    parser.add_argument("--adapter", type=int, nargs="*", default=ADAPTER)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--rates", type=float, nargs="+", default=(1e-4, 3e-4))
    parser.add_argument("--adapter-rates", type=float, nargs="+", default=(3e-4, 1e-3, 3e-3))
    parser.add_argument("--processes", type=int, default=2)
    asked = parser.parse_args()
    rows = []
    with ProcessPoolExecutor(
        asked.processes, mp_context=get_context("spawn"), max_tasks_per_child=1
    ) as pool:
        jobs = [pool.submit(measure, cut, asked.steps) for cut in cuts(asked)]
        for job in jobs:
            rows.append(job.result())
            say(json.dumps(rows[-1]))
    if asked.json:
        found = {"steps": asked.steps, "cuts": rows}
        asked.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
