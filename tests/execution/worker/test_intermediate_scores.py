"""Students that are scored in the middle of their training, and end there if they are told to."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from sweeper.config.loading import load_study
from sweeper.config.models import LoraConfig, StudentConfig
from sweeper.config.settings import Method
from sweeper.distillation.data.training_data import read_training_data
from sweeper.evaluation.scoring import score
from sweeper.execution.worker.run import run_job
from sweeper.foundation.files import read_json_lines
from sweeper.records import IntermediatePoint, Resources
from sweeper.records.layout import JobPaths
from sweeper.study.manifest import suite_spec
from tests.support.training_jobs import make_study_inputs, train
from tests.support.trial_jobs import trial_spec

pytestmark = pytest.mark.slow

WriteStudy = Callable[..., Path]
LORA = StudentConfig(model="builtin/adder-student", lora=LoraConfig(r=4, alpha=8, dropout=0.2))


@pytest.mark.parametrize(
    ("method", "student"),
    [("sft", None), ("seqkd", None), ("supervised_kd", None), ("gkd", None), ("gkd", LORA)],
    ids=["sft", "seqkd", "supervised_kd", "gkd", "gkd with dropout"],
)
def test_being_scored_does_not_disturb_training(
    write_study: WriteStudy, tmp_path: Path, method: Method, student: StudentConfig | None
) -> None:
    suite = suite_spec(load_study(write_study()).selection)
    inputs = make_study_inputs(tmp_path, **({"student": student} if student else {}))
    training_data = read_training_data(inputs)
    resources = Resources(directory=str(tmp_path), device="cpu", threads=1)
    changes = {"gradient_accumulation_steps": 2, "disable_dropout": not student}
    scores: list[float] = []

    def pause(step: int, model: Any) -> bool:
        evaluation = score(
            model,
            training_data.tokenizer,
            suite,
            batch_size=4,
            chat=training_data.chat,
            documents=5,
        )
        assert len(evaluation.documents) == 5
        scores.append(evaluation.scores.score)
        return True

    def weights(*pause_at: int) -> torch.Tensor:
        model, meter, _ = train(
            inputs, resources, method, pause_at=pause_at, pause=pause, **changes
        )
        assert meter.cost().steps == 3
        return torch.cat([p.detach().flatten() for p in model.parameters()])

    undisturbed = weights()
    assert torch.equal(undisturbed, weights(1, 2))
    assert len(scores) == 2


def answer(files: JobPaths, *, index: int, should_continue: bool) -> None:
    """The coordinator's word, before it is asked for."""
    files.prune_decision.write_text(json.dumps({"index": index, "goes_on": should_continue}))


def test_a_trial_that_may_go_on_ends_as_if_it_had_not_been_asked(write_study: WriteStudy) -> None:
    spec = trial_spec(load_study(write_study()), "gkd")
    files = JobPaths(Path(spec.place.directory))
    alone = run_job(spec)
    files.progress.unlink()
    answer(files, index=1, should_continue=True)
    point = IntermediatePoint(index=1, step=2, documents=6)
    asked = run_job(spec.model_copy(update={"interim": (point,)}))
    assert alone.scores is not None
    assert asked.scores is not None
    assert (asked.state, asked.scores.score) == ("completed", alone.scores.score)
    assert {k: v for k, v in asked.curve.items() if "seconds" not in k} == {
        k: v for k, v in alone.curve.items() if "seconds" not in k
    }
    rows, _ = read_json_lines(files.progress)
    [found] = [row for row in rows if "interim" in row]
    assert (found["step"], found["interim"]["index"]) == (2, 1)
    documents = found["interim"]["documents"]
    assert len(documents) == found["interim"]["scored"] == 6
    assert found["interim"]["score"] == pytest.approx(sum(documents) / 6)


def test_a_trial_that_is_told_to_end_is_pruned_there(write_study: WriteStudy) -> None:
    spec = trial_spec(load_study(write_study()), "gkd")
    files = JobPaths(Path(spec.place.directory))
    answer(files, index=0, should_continue=False)
    points = (
        IntermediatePoint(index=0, step=1, documents=6),
        IntermediatePoint(index=1, step=3, documents=6),
    )
    outcome = run_job(spec.model_copy(update={"interim": points, "earlier_seconds": 7.0}))
    assert (outcome.state, outcome.failure, outcome.scores) == ("pruned", None, None)
    assert outcome.interim is not None
    assert outcome.interim.index == 0
    assert outcome.cost.steps == 1
    assert outcome.cost.seconds["evaluation"] > 0
    assert outcome.earlier_seconds == 7.0
    assert not files.documents.exists()


def test_a_trial_that_is_told_to_end_leaves_no_checkpoint_to_go_on_from(
    write_study: WriteStudy,
) -> None:
    spec = trial_spec(load_study(write_study()), "sft")
    files = JobPaths(Path(spec.place.directory))
    settings = spec.settings.model_copy(update={"checkpoint_every": 2})
    answer(files, index=0, should_continue=False)
    point = IntermediatePoint(index=0, step=2, documents=6)
    update = {"interim": (point,), "settings": settings}
    assert run_job(spec.model_copy(update=update)).state == "pruned"
    assert not files.checkpoint.exists()
