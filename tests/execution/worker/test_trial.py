"""How a job ends, from its spec to its outcome, with tiny real models."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from sweeper.config.loading import load_study
from sweeper.distillation.teacher.kl_probe import KLProbe
from sweeper.execution.worker.progress import ProgressWriter
from sweeper.execution.worker.run import run_job
from sweeper.foundation.errors import ConfigError
from sweeper.records import Outcome
from sweeper.records.layout import JobPaths
from sweeper.study import preparation
from sweeper.study.preparation_order import preparation_order
from tests.support.tiny_models import CHATML, make_tiny
from tests.support.tiny_studies import write_yaml
from tests.support.trial_jobs import prepare, trial_spec

WriteStudy = Callable[..., Path]


@pytest.mark.parametrize("method", ["sft", "gkd"])
@pytest.mark.parametrize(
    ("steps", "rate", "decay"),
    [(6, 1e30, 0.0), (2, 1e30, 0.0), (1, 3e38, 1.0)],
    ids=["long before the end", "in the last step", "in the last update"],
)
def test_divergence_between_the_points_of_the_curve_is_seen(
    write_study: WriteStudy, method: str, steps: int, rate: float, decay: float
) -> None:
    training = {
        "max_steps": steps,
        "logging_steps": 1000,
        "learning_rate": rate,
        "weight_decay": decay,
        "adam_beta1": 0.0,
        "lr_scheduler_type": "constant",
        "per_device_train_batch_size": 2,
        "max_length": 96,
    }
    arms = {"sft": None, "gkd": {"settings": {"lmbda": 1.0, "max_new_tokens": 4}}}
    outcome = run_job(trial_spec(load_study(write_study(training=training, arms=arms)), method))
    assert outcome.failure is not None
    assert (outcome.state, outcome.failure.kind) == ("failed", "diverged"), outcome.failure
    assert outcome.failure.remedies[:2] == ("a lower learning_rate", "a higher warmup_ratio")
    assert ("another beta" in outcome.failure.remedies) is (method == "gkd")
    assert outcome.scores is None
    assert outcome.cost.device_seconds > 0


def test_a_point_that_is_not_finite_leaves_an_outcome_that_can_be_read(tmp_path: Path) -> None:
    writer = ProgressWriter(JobPaths(tmp_path))
    writer.train(1, 2, {"loss": 1.0, "teacher_divergence": float("nan")})
    outcome = Outcome(state="failed", curve=writer.point, started=0.0, finished=1.0)
    assert Outcome.model_validate_json(outcome.model_dump_json()) == outcome
    assert writer.point == {"loss": 1.0}


@pytest.mark.slow
def test_a_comparison_with_the_teacher_that_does_not_fit_ends_no_training(
    write_study: WriteStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measure, measured = KLProbe.divergence, []

    def scarce(probe: KLProbe, model: Any, batch_size: int = 8) -> float:
        if batch_size > 1 or measured:
            raise torch.OutOfMemoryError("nothing is said")
        measured.append(measure(probe, model, batch_size))
        return measured[0]

    monkeypatch.setattr(KLProbe, "divergence", scarce)
    spec = trial_spec(load_study(write_study()), "sft")
    origin = spec.origin.model_copy(update={"held_out": str(tmp_path / "gone")})
    outcome = run_job(spec.model_copy(update={"origin": origin}))
    assert (outcome.state, outcome.cost.steps) == ("completed", 4), outcome.failure
    lines = JobPaths(Path(spec.place.directory)).progress.read_text().splitlines()
    metrics = [json.loads(line).get("metrics") or {} for line in lines]
    points = [point.get("teacher_divergence") for point in metrics if "loss" in point]
    assert len(points) > 1 and points == [*measured, *[None] * (len(points) - 1)]


@pytest.fixture
def blind_student(tiny_student: str, tmp_path: Path) -> str:
    """A student that is sound but for one letter, which no training text has."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_student)
    config = LlamaConfig.from_pretrained(tiny_student)
    config.tie_word_embeddings = False
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        model.get_input_embeddings().weight[tokenizer.convert_tokens_to_ids("Z")] = torch.nan
    model.save_pretrained(tmp_path / "blind")
    tokenizer.save_pretrained(tmp_path / "blind")
    return str(tmp_path / "blind")


def test_a_score_that_is_no_number_is_a_failure(
    write_study: WriteStudy, tmp_path: Path, tiny_teacher: str, blind_student: str
) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps({"prompt": "1+1?", "completion": "2"}) + "\n")
    texts = tmp_path / "texts.jsonl"
    texts.write_text(json.dumps({"text": "sound"}) + "\n" + json.dumps({"text": "Zebra"}) + "\n")
    study = write_study(
        teacher={"model": tiny_teacher},
        # An adapter leaves the broken letter alone, so that training itself goes well.
        student={"model": blind_student, "lora": {"r": 2}},
        data={"train": {"path": "rows.jsonl"}},
        arms={"sft": None},
        training={"max_steps": 1, "per_device_train_batch_size": 1, "max_length": 64},
    )
    (tmp_path / "tasks").mkdir()
    write_yaml(
        tmp_path / "tasks" / "texts.yaml",
        {
            "task": "texts",
            "dataset_path": "json",
            "dataset_kwargs": {"data_files": {"test": str(texts)}},
            "test_split": "test",
            "output_type": "loglikelihood_rolling",
            "doc_to_text": "",
            "doc_to_target": "{{text}}",
            "metric_list": [{"metric": "byte_perplexity"}],
        },
    )
    task: dict[str, Any] = {"task": "texts", "metric": "byte_perplexity"}
    write_yaml(tmp_path / "selection.yaml", {"suite": "selection", "tasks": [task]})

    outcome = run_job(trial_spec(load_study(study), "sft"))
    assert outcome.failure is not None
    assert (outcome.state, outcome.failure.kind) == ("failed", "diverged")
    assert outcome.failure.message == "The score of texts is nan: the model diverged."
    assert outcome.cost.steps == 1

    write_yaml(
        tmp_path / "selection.yaml",
        {"suite": "selection", "tasks": [{**task, "documents": [0, 1]}]},
    )
    assert run_job(trial_spec(load_study(study), "sft")).state == "completed"


def test_a_system_prompt_needs_a_chat_template(write_study: WriteStudy) -> None:
    path = write_study(
        data={"train": {"path": "builtin/addition", "limit": 4}, "system_prompt": "Add."}
    )
    study = load_study(path)
    outcome, files = prepare(study, "data")
    assert outcome.failure is not None
    assert outcome.failure.kind == "bad_input"
    error = preparation.explain(study, "data", outcome, files)
    assert isinstance(error, ConfigError)
    line = next(
        number
        for number, text in enumerate(path.read_text().splitlines(), start=1)
        if "system_prompt" in text
    )
    [problem] = error.problems
    assert (problem.source, problem.path, problem.line) == (str(path), "data.system_prompt", line)
    assert "expected none" in problem.message


def test_a_system_prompt_is_refused_in_plain_format_of_a_chat_model(
    write_study: WriteStudy, tiny_teacher: str, tiny_student: str
) -> None:
    models = {"teacher": {"model": tiny_teacher}, "student": {"model": tiny_student}}
    data = {"train": {"path": "builtin/addition", "limit": 4}, "system_prompt": "Add."}
    plain = {**data, "format": "plain"}
    outcome, _ = prepare(load_study(write_study(**models, data=plain)), "data")
    assert outcome.failure is not None
    assert outcome.failure.key == ("data", "system_prompt")
    outcome, _ = prepare(load_study(write_study(**models, data=data)), "data")
    assert outcome.state == "completed"


def test_a_trial_that_fails_has_cost_what_it_did(write_study: WriteStudy) -> None:
    training = {"max_steps": 8, "logging_steps": 1, "learning_rate": 1e30, "max_length": 96}
    study = load_study(write_study(training={**training, "per_device_train_batch_size": 2}))
    outcome = run_job(trial_spec(study, "sft"))
    assert outcome.failure is not None
    assert outcome.failure.kind == "diverged"
    assert 1 <= outcome.cost.steps < 8
    assert outcome.cost.trained_tokens > 0
    assert outcome.cost.device_seconds > 0


def test_the_start_is_a_teacher_of_which_nothing_is_to_be_learnt(write_study: WriteStudy) -> None:
    own = {"teacher.model": "student"}
    study = load_study(
        write_study(
            warm_start={"max_steps": 1},
            training={"max_steps": 1, "logging_steps": 1, "max_length": 96},
            arms={
                "placebo": {"method": "supervised_kd", "settings": own},
                "started": {"method": "seqkd", "settings": own},
                "taught": {"method": "supervised_kd"},
            },
        )
    )
    order = preparation_order(study.config, students_served=False)
    assert order["teacher@placebo"] == ("data", "student")
    (start, _), (teacher, _) = (prepare(study, step) for step in ("student", "teacher@placebo"))
    assert start.scores is not None and teacher.scores is not None, teacher.failure
    assert teacher.scores.score == start.scores.score
    assert teacher.model_parameters == start.model_parameters
    for kind in ("warm_starts", "teacher_outputs", "teacher_states"):
        assert list((study.path.parent / "cache" / kind).glob("*/key.json")), kind
    assert teacher.held_out is None, "all students are compared with the study's teacher"
    placebo = trial_spec(study, "placebo").model_copy(update={"teacher": {"model": "student"}})
    losses = {}
    for spec in (placebo, trial_spec(study, "taught")):
        outcome = run_job(spec)
        assert outcome.state == "completed", outcome.failure
        losses[spec.arm] = outcome.curve["loss"]
    assert losses["placebo"] == pytest.approx(0, abs=1e-6)
    assert losses["taught"] > 1e-3


def test_teacher_answers_that_were_cut_are_told(write_study: WriteStudy) -> None:
    arms = {"seqkd": {"trials": 1}}
    study = load_study(write_study(arms=arms, teacher_outputs={"max_new_tokens": 5}))
    outcome, _ = prepare(study, "teacher")
    assert outcome.notes == (
        "24 of the 24 answers for seqkd and seq_kd were cut at 5 tokens"
        " (teacher_outputs.max_new_tokens)",
    )
    assert outcome.held_out is not None


def test_what_another_step_made_sooner_is_not_made_again(write_study: WriteStudy) -> None:
    arms = {"seqkd": {}, "supervised_kd": {}}
    study = load_study(write_study(arms=arms, teacher_outputs={"max_new_tokens": 5}))
    cache = study.path.parent / "cache"

    def entries() -> dict[str, int]:
        found = (
            *cache.glob("teacher_outputs/*/key.json"),
            *cache.glob("teacher_states/*/key.json"),
        )
        return {str(path.relative_to(cache)): path.stat().st_mtime_ns for path in found}

    sooner, _ = prepare(study, "answers")
    assert (sooner.state, sooner.scores, sooner.held_out) == ("completed", None, None)
    made = entries()
    assert {name.partition("/")[0] for name in made} == {"teacher_outputs", "teacher_states"}
    teacher, _ = prepare(study, "teacher")
    assert teacher.scores is not None and teacher.held_out is not None
    assert entries() == made
    # The teacher's step tells of them, and answers for them: a study looks there.
    assert not sooner.notes and "were cut at 5 tokens" in teacher.notes[0]
    assert set(teacher.cached) >= set(sooner.cached)


def test_an_arms_teacher_may_be_rounded_and_padded_otherwise(
    write_study: WriteStudy, tmp_path: Path
) -> None:
    small, large = (
        make_tiny(tmp_path / str(rows), vocab_rows=rows, layers=rows // 132) for rows in (264, 272)
    )
    own = {"teacher.model": large, "teacher.quantization": "int8"}
    models = {"teacher": {"model": small}, "student": {"model": small}}
    arms = {"gkd": {"settings": {"max_new_tokens": 4, "lmbda": 0.5}}}
    study = load_study(write_study(**models, arms=arms))
    spec = trial_spec(study, "gkd")
    teacher = {name.removeprefix("teacher."): value for name, value in own.items()}
    outcome = run_job(spec.model_copy(update={"teacher": teacher}))
    assert outcome.failure is None
    # A teacher with fewer ids than the student: the student would have to be another one.
    models["student"] = models["teacher"] = {"model": large}
    spec = trial_spec(load_study(write_study(study="other", **models, arms=arms)), "gkd")
    failure = run_job(spec.model_copy(update={"teacher": {"model": small}})).failure
    assert failure is not None
    assert (failure.kind, failure.key) == ("bad_input", ("arms", "gkd"))
    assert "student.vocab_size: 264 leaves it out" in failure.message


@pytest.mark.parametrize(
    ("place", "blamed"),
    [
        ("student", ("student", "init_kwargs", "attn_implementation")),
        ("teacher", ("teacher", "init_kwargs", "attn_implementation")),
        ("arm", ("arms", "gkd")),
        ("searched", ("arms", "gkd")),
        ("eager", None),
        ("nowhere", None),
    ],
)
def test_an_attention_that_a_model_does_not_have_is_refused_before_anything_is_trained(
    write_study: WriteStudy, tmp_path: Path, place: str, blamed: tuple[str, ...] | None
) -> None:
    path, key = make_tiny(tmp_path / "gemma", "gemma2"), "attn_implementation"
    kwargs = {"init_kwargs": {key: "eager" if place == "eager" else "sdpa"}}
    models: dict[str, Any] = {
        role: {"model": path, **(kwargs if place in (role, "eager") else {})}
        for role in ("teacher", "student")
    }
    own: dict[str, Any] = {"settings": {"max_new_tokens": 8}}
    if place == "arm":
        own["settings"][f"teacher.init_kwargs.{key}"] = "sdpa"
    if place == "searched":
        choices = {"type": "categorical", "choices": ["eager", "sdpa"]}
        own["search"] = {f"teacher.init_kwargs.{key}": choices}
    outcome, _ = prepare(load_study(write_study(**models, arms={"gkd": own})), "data")
    assert outcome.examination is not None, outcome.failure
    problems = outcome.examination.problems
    assert [problem.key for problem in problems] == ([blamed] if blamed else [])
    assert all("(gemma2) has no sdpa" in p.message and "eager" in p.message for p in problems)
    if blamed is None:
        assert outcome.examination.attention == {"teacher": "eager", "student": "eager"}


def test_templates_that_differ_are_told_before_anything_is_trained(
    write_study: WriteStudy, tmp_path: Path
) -> None:
    teacher = make_tiny(tmp_path / "teacher", template="Hi. " + CHATML)
    student = make_tiny(tmp_path / "student")
    models = {"teacher": {"model": teacher}, "student": {"model": student}}
    for form, told in (("auto", True), ("plain", False)):
        data = {"train": {"path": "builtin/addition", "limit": 4}, "format": form}
        outcome, _ = prepare(load_study(write_study(**models, data=data)), "data")
        assert outcome.data is not None
        assert any("the chat templates" in note for note in outcome.data.notes) is told
