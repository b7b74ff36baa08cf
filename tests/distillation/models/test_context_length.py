"""Texts that are longer than a model's positions are told before anything is trained on them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, GPT2LMHeadModel

from sweeper.config.loading import load_study
from sweeper.config.models import ModelConfig
from sweeper.distillation.data.batches import PromptCollator, counted_positions
from sweeper.distillation.data.examples import TokenSequence
from sweeper.distillation.models.context_length import ends, positions
from sweeper.distillation.models.lm_head import LMHead
from sweeper.distillation.models.loading import load_model
from sweeper.distillation.sampling.rollouts import generate
from sweeper.distillation.teacher import hidden_states
from sweeper.distillation.teacher.shared_teacher import SharedTeacher
from sweeper.execution.worker.run import run_job
from sweeper.foundation.errors import ConfigError
from sweeper.records import Outcome, Resources
from sweeper.study import preparation
from tests.support.tiny_models import ARCHITECTURES, make_tiny
from tests.support.tiny_studies import write_yaml
from tests.support.training_jobs import make_study_inputs
from tests.support.trial_jobs import prepare, trial_spec

POSITIONS = 64
LENGTHS = {"max_length": 64}
"""What a tiny model with as many positions can be trained on."""


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("positions")
    return {
        name: make_tiny(root / name, name, max_position_embeddings=POSITIONS, spread=4.0)
        for name in ("gpt2", "qwen2")
    }


@pytest.fixture
def data_step(
    tiny: dict[str, str], tmp_path: Path, write_study: Callable[..., Path]
) -> Callable[..., tuple[Outcome, list[str]]]:
    """Does the data step of a study of a tiny pair; the outcome, and what a user is told."""
    rows = [{"prompt": f"{n}?" + "." * (n % 20), "completion": "a" * 30} for n in range(20)]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "rows.jsonl").write_text(lines, encoding="utf-8")

    def do(
        architecture: str, *, gkd: dict[str, Any], asked: str = "Q", **changes: Any
    ) -> tuple[Outcome, list[str]]:
        models = {"model": tiny[architecture]}
        path = write_study(
            teacher=models,
            student=models,
            **{
                "data": {"train": {"path": "rows.jsonl"}, "format": "plain"},
                "training": LENGTHS,
                "teacher_outputs": {"max_new_tokens": 8},
                "arms": {"gkd": gkd},
                **changes,
            },
        )
        _write_suite(tmp_path, [asked, "short"])
        study = load_study(path)
        outcome, files = prepare(study, "data")
        if outcome.failure is None:
            return outcome, []
        error = preparation.explain(study, "data", outcome, files)
        assert isinstance(error, ConfigError), outcome.failure
        assert all(problem.line is not None for problem in error.problems)
        return outcome, [f"{problem.path}: {problem.message}" for problem in error.problems]

    return do


def _write_suite(folder: Path, prompts: list[str]) -> None:
    rows = "".join(json.dumps({"q": prompt, "a": "x"}) + "\n" for prompt in prompts)
    (folder / "asked.jsonl").write_text(rows, encoding="utf-8")
    (folder / "tasks").mkdir(exist_ok=True)
    task = {
        "task": "asked",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(folder / "asked.jsonl")}},
        "test_split": "test",
        "output_type": "generate_until",
        "doc_to_text": "{{q}}",
        "doc_to_target": "{{a}}",
        "generation_kwargs": {"until": ["\n"], "max_gen_toks": 16},
        "metric_list": [{"metric": "exact_match"}],
    }
    write_yaml(folder / "tasks" / "asked.yaml", task)
    for name, document in (("selection", 0), ("test", 1)):
        entry = {"task": "asked", "documents": [document, document + 1]}
        write_yaml(folder / f"{name}.yaml", {"suite": name, "tasks": [entry]})


def test_positions_end_where_they_are_learned(tiny: dict[str, str], tmp_path: Path) -> None:
    found = {name: ends(ModelConfig(model=path)) for name, path in tiny.items()}
    assert found == {"gpt2": True, "qwen2": False}
    assert positions(ModelConfig(model=tiny["gpt2"])) == POSITIONS
    small = {"hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 1}
    small |= {"vocab_size": 32, "max_position_embeddings": 32}
    expected = {"opt": True, "gptj": True, "gpt_neo": True, "nemotron_h": False, "bloom": False}
    expected |= {ARCHITECTURES[name].model_type: False for name in ("gemma3", "phi3", "mistral")}
    for name, answer in expected.items():
        options = dict(small)
        if name == "gpt_neo":
            options["attention_types"] = [[["global"], 1]]
        if name == "gptj":
            options["rotary_dim"] = 4
        AutoConfig.for_model(name, **options).save_pretrained(tmp_path / name)
        assert ends(ModelConfig(model=str(tmp_path / name))) is answer, name


@pytest.mark.parametrize(
    ("study", "told"),
    [
        (
            {"gkd": {"settings": {"lmbda": 0.5, "max_new_tokens": 60}}},
            "arms.gkd.settings.max_new_tokens: expected at most 42, because the teacher {model} has"
            " 64 positions and no more, found 60 after a prompt of 22 tokens",
        ),
        (
            {"gkd": {"search": {"max_new_tokens": {"type": "int", "low": 8, "high": 48}}}},
            "arms.gkd.search.max_new_tokens: expected at most 42, because the teacher {model} has"
            " 64 positions and no more, found 48 after a prompt of 22 tokens",
        ),
        (
            {
                "gkd": {"settings": {"lmbda": 0.0, "seq_kd": True}},
                "teacher_outputs": {"max_new_tokens": 50},
            },
            "teacher_outputs.max_new_tokens: expected at most 42, because the teacher {model} has"
            " 64 positions and no more, found 50 after a prompt of 22 tokens",
        ),
        (
            {"gkd": {"settings": {"lmbda": 0.0}}, "asked": "Q" * 60},
            "evaluation.selection: expected at most 64 tokens in a prompt and its answer, because"
            " the teacher {model} has 64 positions and no more, found one of 76",
        ),
    ],
    ids=["rollouts", "searched rollouts", "the teacher's answers", "a document"],
)
def test_what_goes_beyond_learned_positions_is_refused_at_its_key(
    tiny: dict[str, str], data_step: Callable[..., Any], study: dict[str, Any], told: str
) -> None:
    _, found = data_step("gpt2", **study)
    assert found == [told.format(model=tiny["gpt2"])]


def test_sequences_beyond_learned_positions_are_refused_at_their_key(
    tiny: dict[str, str], tmp_path: Path, data_step: Callable[..., Any]
) -> None:
    rows = "".join(
        json.dumps({"prompt": p, "completion": "a" * 50}) + "\n" for p in ("b" * 30, "c")
    )
    offline = {"settings": {"lmbda": 0.0}}
    for length, fits in ((64, True), (100, False)):
        (tmp_path / "long.jsonl").write_text(rows, encoding="utf-8")
        data = {"train": {"path": "long.jsonl"}, "format": "plain"}
        _, found = data_step("gpt2", gkd=offline, training={"max_length": length}, data=data)
        told = (
            f"training.max_length: expected at most 64, because the teacher {tiny['gpt2']} has 64"
            " positions and no more, found 100 and a sequence of 81 tokens"
        )
        assert found == ([] if fits else [told])


def test_beyond_the_length_that_a_model_was_trained_on_is_told(
    tiny: dict[str, str], data_step: Callable[..., Any]
) -> None:
    outcome, found = data_step("qwen2", gkd={"settings": {"max_new_tokens": 60}}, asked="Q" * 60)
    assert found == []
    model = tiny["qwen2"]
    rollouts, answers = (note for note in outcome.data.notes if "was made for" in note)
    assert rollouts.startswith("arms.gkd.settings.max_new_tokens: 60 after a prompt of 22 tokens")
    assert f"is more than the 64 tokens that the teacher {model} was made for" in rollouts
    assert answers.startswith("evaluation.selection: one of 76")
    # Scoring reads no more at once.
    assert max(task.tokens for task in outcome.data.scored) == 64


def test_what_fits_is_not_mentioned(data_step: Callable[..., Any]) -> None:
    outcome, found = data_step("gpt2", gkd={"settings": {"max_new_tokens": 42}}, asked="Q" * 48)
    assert found == []
    assert not [note for note in outcome.data.notes if "position" in note or "made for" in note]


def test_an_arms_own_teacher_is_held_to_its_positions(
    tmp_path: Path, tiny: dict[str, str], write_study: Callable[..., Path]
) -> None:
    long = make_tiny(tmp_path / "long", "gpt2", max_position_embeddings=512)
    settings = {"teacher.model": tiny["gpt2"], "lmbda": 1.0, "max_new_tokens": 60}
    path = write_study(
        teacher={"model": long},
        student={"model": long},
        arms={"gkd": {"settings": settings}},
        training={"max_length": 200},
    )
    outcome = run_job(
        trial_spec(load_study(path), "gkd").model_copy(update={"teacher": {"model": tiny["gpt2"]}})
    )
    assert outcome.failure is not None and outcome.failure.kind == "bad_input", outcome.failure
    assert outcome.failure.key == ("arms", "gkd")
    assert "has 64 positions and no more" in outcome.failure.message
    checked, _ = prepare(load_study(path), "data")
    assert checked.examination is not None
    [problem] = checked.examination.problems
    assert problem.key == ("arms", "gkd", "settings", "max_new_tokens")
    assert "has 64 positions and no more" in problem.message


class OwnClass(GPT2LMHeadModel):  # type: ignore[misc]
    """One that is sampled by ``model.generate``, as classes from a model's repository are."""


def test_learned_positions_begin_with_each_text_for_teachers_too(
    tiny: dict[str, str], tmp_path: Path
) -> None:
    """Stored states and answers are those of each text alone, whatever it is padded with."""
    config = ModelConfig(model=tiny["gpt2"])
    model = load_model(config, "cpu")
    texts = [TokenSequence((5, 6, 7), (8, 9)), TokenSequence(tuple(range(5, 35)), (3, 4, 5))]
    inputs = make_study_inputs(tmp_path, teacher=config, teacher_states_gib=1.0)
    resources = Resources(directory=str(tmp_path), device="cpu", threads=1)
    stored = hidden_states.get_or_compute(SharedTeacher(inputs, config, resources, model), texts)
    assert stored is not None
    lm_head = LMHead.of(model, trained=False)
    for index, text in enumerate(texts):
        batch = PromptCollator(0).pad([(text.prompt, text.completion or ())])
        with torch.no_grad():
            positions = counted_positions(batch["labels"])
            alone = lm_head.states({"input_ids": batch["input_ids"]}, positions)
        assert torch.allclose(stored.of([index]), alone, atol=1e-5)

    own = OwnClass.from_pretrained(tiny["gpt2"]).eval()
    prompts = [list(text.prompt) for text in texts]
    options: dict[str, Any] = {"max_new_tokens": 6, "end_ids": [], "pad_id": 0, "seed": 1}
    together = generate(own, prompts, temperature=0.0, batch_size=2, **options)
    assert together == [
        generate(model, [prompt], temperature=0.0, batch_size=1, **options)[0] for prompt in prompts
    ]
