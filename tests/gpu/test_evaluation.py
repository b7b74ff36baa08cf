"""Scores on a GPU are those of the CPU."""

from __future__ import annotations

import pytest

pytest.importorskip("lm_eval", reason="scores are lm-eval's")

from sweeper.config.base import ScoringDtype
from sweeper.config.models import ModelConfig
from sweeper.config.suite import SuiteConfig, SuiteTask
from sweeper.distillation.models.answer_ends import end_token_ids
from sweeper.distillation.models.loading import load_model, load_tokenizer
from sweeper.distillation.models.precision import computing_in
from sweeper.evaluation.scoring import Evaluation, score
from sweeper.records import SuiteSpec
from tests.support.tiny_studies import ROOT

pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("default")]

STUDENT = ModelConfig(model="builtin/adder-student")
TASKS = {
    "addition": ("exact_match", ROOT / "eval_suites" / "tasks"),
    "texts": ("byte_perplexity", ROOT / "eval_suites" / "smollm2" / "tasks"),
}


def scored(task: str, device: str, dtype: ScoringDtype) -> Evaluation:
    metric, folder = TASKS[task]
    config = SuiteConfig(suite="s", tasks=(SuiteTask(task=task, documents=(0, 16), metric=metric),))
    model, tokenizer = load_model(STUDENT, device), load_tokenizer(STUDENT)
    with computing_in(model, dtype):
        return score(
            model,
            tokenizer,
            SuiteSpec(config=config, task_directories=(str(folder),), content_hash="h"),
            batch_size=8,
            chat=False,
            end_ids=end_token_ids(model, tokenizer),
            dtype=dtype,
        )


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-4), ("bfloat16", 2e-2)])
def test_the_likelihood_of_texts_is_that_of_the_cpu(dtype: ScoringDtype, tolerance: float) -> None:
    here, there = (scored("texts", device, dtype) for device in ("cuda:0", "cpu"))
    assert here.scores.score == pytest.approx(there.scores.score, rel=tolerance)
    assert [one.doc_hash for one in here.documents] == [one.doc_hash for one in there.documents]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_answers_are_those_of_the_cpu(dtype: ScoringDtype) -> None:
    here, there = (scored("addition", device, dtype) for device in ("cuda:0", "cpu"))
    differing = sum(
        one.score != other.score for one, other in zip(here.documents, there.documents, strict=True)
    )
    # Two tokens may be equally likely but for rounding.
    assert differing <= (0 if dtype == "float32" else 3)
