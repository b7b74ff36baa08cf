"""Scoring through real lm-eval, with models that give known answers."""

from __future__ import annotations

import itertools
import json
import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig

from sweeper.config.models import ModelConfig
from sweeper.config.suite import SuiteConfig, SuiteTask
from sweeper.distillation.data.chat_templates import set_defaults
from sweeper.distillation.models.answer_ends import end_token_ids
from sweeper.distillation.models.loading import load_model, load_tokenizer
from sweeper.evaluation.prompt_lengths import text_lengths
from sweeper.evaluation.scoring import DocumentScore, aggregate, mean_and_error, score
from sweeper.evaluation.tasks import load_tasks, prompts
from sweeper.foundation.errors import BadInputError
from sweeper.records import SuiteSpec, TaskScore
from tests.support.chat_templates import OFF, template
from tests.support.chat_templates import tokenizer as chat_tokenizer
from tests.support.tiny_models import make_tiny
from tests.support.tiny_studies import ROOT, write_yaml

TEACHER = ModelConfig(model="builtin/adder-teacher")
TASKS = ROOT / "eval_suites" / "tasks"
ROWS = [
    {"text": "the quick brown fox", "question": "Best?", "choices": ["yes", "no"], "gold": 0},
    {
        "text": "jumps over a lazy dog, twice",
        "question": "Worst?",
        "choices": ["a", "b"],
        "gold": 1,
    },
    {"text": "again", "question": "Else?", "choices": ["on", "off"], "gold": 1},
]


def suite(*tasks: SuiteTask, directory: Path = TASKS, **changes: Any) -> SuiteSpec:
    config = SuiteConfig(suite="s", tasks=tasks, **changes)
    return SuiteSpec(config=config, task_directories=(str(directory),), content_hash="h")


@pytest.fixture(scope="module")
def model() -> Any:
    return load_model(TEACHER, "cpu")


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return load_tokenizer(TEACHER)


@pytest.fixture
def own_tasks(tmp_path: Path) -> Path:
    """A perplexity task and a multiple-choice task over ``ROWS``, files relative to the task."""
    (tmp_path / "data").mkdir()
    rows = tmp_path / "data" / "rows.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    folder = tmp_path / "tasks"
    folder.mkdir()
    common: dict[str, Any] = {
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": "../data/rows.jsonl"}},
        "test_split": "test",
    }
    rolling = {
        "task": "rolling",
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{text}}",
        "metric_list": [{"metric": name} for name in ("word_perplexity", "byte_perplexity")],
    }
    choice = {
        "task": "choice",
        "output_type": "multiple_choice",
        "doc_to_text": "{{question}}",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "gold",
        "metric_list": [{"metric": "acc"}],
    }
    bleu = {
        "task": "overlap",
        "output_type": "generate_until",
        "doc_to_text": "{{question}}",
        "doc_to_target": "{{text}}",
        "generation_kwargs": {"until": ["\n"], "max_gen_toks": 4},
        "metric_list": [{"metric": "bleu"}],
    }
    said = {**bleu, "task": "said", "metric_list": [{"metric": "exact_match"}]}
    for task in (rolling, choice, bleu, said):
        write_yaml(folder / f"{task['task']}.yaml", {**common, **task})
    return folder


def test_the_teacher_adds(model: Any, tokenizer: Any) -> None:
    task = SuiteTask(task="addition", documents=(5, 35))
    found = score(model, tokenizer, suite(task), batch_size=16, chat=False, samples=2)
    assert found.scores.score > 0.9
    assert found.scores.higher_is_better
    [result] = found.scores.tasks
    assert (result.metric, result.documents) == ("exact_match", 30)
    assert [document.doc_id for document in found.documents] == list(range(5, 35))
    assert len({document.doc_hash for document in found.documents}) == 30
    mean = sum(document.score for document in found.documents) / 30
    assert found.scores.score == pytest.approx(mean)
    first = found.samples[0]
    assert len(found.samples) == 2
    assert first.response.endswith("#" + first.target) == (first.score == 1.0)


def test_scoring_disturbs_nothing(model: Any, tokenizer: Any) -> None:
    model.train()
    random.seed(3)
    np.random.seed(3)
    torch.manual_seed(3)
    before = (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())
    task = SuiteTask(task="addition", documents=(0, 4))
    score(model, tokenizer, suite(task), batch_size=4, chat=False)
    after = (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())
    assert before == after
    assert model.training
    model.eval()


def test_perplexity_is_nats_per_byte(own_tasks: Path, tiny_student: str) -> None:
    config = ModelConfig(model=tiny_student)
    student, tokenizer = load_model(config, "cpu"), load_tokenizer(config)
    spec = suite(SuiteTask(task="rolling", metric="word_perplexity"), directory=own_tasks)
    found = score(student, tokenizer, spec, batch_size=2, chat=False)
    nats = bytes_ = 0.0
    for row in ROWS:
        ids = tokenizer(str(row["text"]))["input_ids"]
        tokens = torch.tensor([[tokenizer.eos_token_id, *ids]])
        with torch.no_grad():
            logits = student(tokens).logits
        logs = torch.log_softmax(logits[0, :-1].double(), -1)
        nats -= logs[range(len(ids)), ids].sum().item()
        bytes_ += len(str(row["text"]).encode())
    assert found.scores.score == pytest.approx(nats / bytes_, rel=1e-4)
    assert not found.scores.higher_is_better
    assert found.scores.tasks[0].metric == "nats_per_byte"
    assert sum(document.weight for document in found.documents) == bytes_


def test_how_long_the_texts_of_each_task_are(own_tasks: Path, tokenizer: Any) -> None:
    spec = suite(*(SuiteTask(task=n) for n in ("rolling", "choice", "said")), directory=own_tasks)
    options: dict[str, Any] = {"chat": False, "system_prompt": None, "over": math.inf}
    found = text_lengths(load_tasks(spec), spec.config, tokenizer, **options)
    rolling, choice, said = found

    def longest(*texts: str) -> int:
        return max(len(tokenizer(text)["input_ids"]) for text in texts)

    assert (rolling.texts, rolling.longest, rolling.likelihoods) == (3, 0, True)
    assert rolling.windowed == longest(*(str(row["text"]) for row in ROWS))
    # Each choice is a text of its own.
    answers = [f"{row['question']} {answer}" for row in ROWS for answer in row["choices"]]
    assert (choice.texts, choice.longest, choice.windowed) == (6, longest(*answers), 0)
    asked = longest(*(str(row["question"]) for row in ROWS))
    assert (said.texts, said.longest, said.likelihoods) == (3, asked + 4, False)


def test_mixed_directions_and_weights(own_tasks: Path, tiny_student: str) -> None:
    config = ModelConfig(model=tiny_student)
    student, tokenizer = load_model(config, "cpu"), load_tokenizer(config)
    tasks = (
        SuiteTask(task="choice", metric="acc", weight=3.0),
        SuiteTask(task="rolling", metric="byte_perplexity"),
    )
    found = score(student, tokenizer, suite(*tasks, directory=own_tasks), batch_size=2, chat=False)
    accuracy, nats = found.scores.tasks
    assert found.scores.higher_is_better
    assert found.scores.score == pytest.approx((3 * accuracy.score - nats.score) / 4)
    expected = math.hypot(3 * accuracy.stderr, nats.stderr) / 4
    assert found.scores.stderr == pytest.approx(expected)


def test_documents_share_out_the_suites_score(own_tasks: Path, tiny_student: str) -> None:
    config = ModelConfig(model=tiny_student)
    student, tokenizer = load_model(config, "cpu"), load_tokenizer(config)
    tasks = (SuiteTask(task="rolling", weight=3.0), SuiteTask(task="choice", cluster_by="gold"))
    found = score(student, tokenizer, suite(*tasks, directory=own_tasks), batch_size=2, chat=False)
    total = sum(document.share * document.score for document in found.documents)
    assert total == pytest.approx(found.scores.score)
    assert sum(abs(document.share) for document in found.documents) == pytest.approx(1)
    # A perplexity is to be low, and the suite's score high.
    assert {document.share < 0 for document in found.documents if document.task == "rolling"} == {
        True
    }
    chosen = [document for document in found.documents if document.task == "choice"]
    assert [document.cluster for document in chosen] == ["0", "1", "1"]


def test_a_task_of_weight_0_is_scored_beside_the_score(own_tasks: Path, tiny_student: str) -> None:
    config = ModelConfig(model=tiny_student)
    student, tokenizer = load_model(config, "cpu"), load_tokenizer(config)
    tasks = (SuiteTask(task="choice", weight=0), SuiteTask(task="rolling"))
    found = score(student, tokenizer, suite(*tasks, directory=own_tasks), batch_size=2, chat=False)
    beside, counted = found.scores.tasks
    assert beside.documents == 3 and beside.higher_is_better
    # The direction is that of what counts, too.
    assert (found.scores.score, found.scores.stderr) == (counted.score, counted.stderr)
    assert not found.scores.higher_is_better
    assert {document.share for document in found.documents if document.task == "choice"} == {0}
    rolling = [document for document in found.documents if document.task == "rolling"]
    assert found.signed == tuple(document.score for document in rolling)
    assert sum(document.share for document in rolling) == pytest.approx(1)


def test_a_column_that_groups_documents_must_exist(own_tasks: Path, tiny_student: str) -> None:
    config = ModelConfig(model=tiny_student)
    student, tokenizer = load_model(config, "cpu"), load_tokenizer(config)
    spec = suite(SuiteTask(task="choice", cluster_by="article"), directory=own_tasks)
    with pytest.raises(BadInputError, match=r"no column 'article' \(cluster_by\); use one of"):
        score(student, tokenizer, spec, batch_size=2, chat=False)


def test_the_worst_task_decides_a_minimum() -> None:
    def result(value: float, higher: bool) -> TaskScore:
        return TaskScore(
            task="t",
            metric="m",
            score=value,
            stderr=value / 10,
            documents=9,
            higher_is_better=higher,
            weight=1.0,
        )

    config = SuiteConfig(suite="s", tasks=(SuiteTask(task="t"),), aggregate="minimum")
    assert aggregate(config, [result(0.5, True), result(0.4, True)]) == (0.4, 0.04, True)
    assert aggregate(config, [result(0.5, False), result(0.4, False)]) == (0.5, 0.05, False)


def test_mean_and_error_agree_with_scipy() -> None:
    values = [0.0, 1.0, 1.0, 0.25]
    documents = [DocumentScore("t", i, "h", v, 1.0, "h") for i, v in enumerate(values)]
    mean, error = mean_and_error(documents)
    assert mean == pytest.approx(np.mean(values))
    assert error == pytest.approx(stats.sem(values))


def test_weights_scale_out_of_the_ratio_estimator() -> None:
    rows = [(0.5, 3.0), (1.5, 1.0), (1.0, 2.0)]
    once = [DocumentScore("t", i, "h", v, w, "h") for i, (v, w) in enumerate(rows)]
    scaled = [DocumentScore("t", i, "h", v, 10 * w, "h") for i, (v, w) in enumerate(rows)]
    assert mean_and_error(once) == pytest.approx(mean_and_error(scaled))
    assert mean_and_error(once)[0] == pytest.approx(5 / 6)


@pytest.mark.parametrize(
    ("task", "message"),
    [
        (SuiteTask(task="addition", documents=(590, 601)), "there are 600"),
        (SuiteTask(task="addition", documents=(0, 2), metric="f1"), "no metric 'f1'.*exact_match"),
        (SuiteTask(task="addition", documents=(0, 2), filter="strict"), "no filter 'strict'"),
    ],
)
def test_what_a_task_does_not_have_is_named(
    model: Any, tokenizer: Any, task: SuiteTask, message: str
) -> None:
    with pytest.raises(BadInputError, match=message):
        score(model, tokenizer, suite(task), batch_size=4, chat=False)


def test_a_metric_without_a_number_per_document_is_refused(
    own_tasks: Path, tiny_student: str
) -> None:
    config = ModelConfig(model=tiny_student)
    student, tokenizer = load_model(config, "cpu"), load_tokenizer(config)
    with pytest.raises(BadInputError, match="is not the mean over documents"):
        score(
            student,
            tokenizer,
            suite(SuiteTask(task="overlap"), directory=own_tasks),
            batch_size=2,
            chat=False,
        )


def test_a_broken_task_file_is_named(tmp_path: Path) -> None:
    write_yaml(
        tmp_path / "broken.yaml",
        {
            "task": "broken",
            "dataset_path": "json",
            "dataset_kwargs": {"data_files": {"test": "gone.jsonl"}},
            "test_split": "test",
            "doc_to_text": "{{a}}",
            "doc_to_target": "{{b}}",
        },
    )
    with pytest.raises(BadInputError, match="cannot load the task 'broken'"):
        load_tasks(suite(SuiteTask(task="broken"), directory=tmp_path))


@pytest.mark.slow
def test_an_unknown_task_is_looked_for_in_lm_eval_too() -> None:
    with pytest.raises(BadInputError, match=r"no task 'additon'.*nor in lm-eval"):
        load_tasks(suite(SuiteTask(task="additon")))


def test_few_shot_examples_come_before_the_question(tmp_path: Path, tiny_student: str) -> None:
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    write_yaml(
        tmp_path / "shots.yaml",
        {
            "task": "shots",
            "dataset_path": "json",
            "dataset_kwargs": {"data_files": {"test": "rows.jsonl"}},
            "test_split": "test",
            "fewshot_split": "test",
            "output_type": "generate_until",
            "doc_to_text": "{{question}}",
            "doc_to_target": "{{text}}",
            "generation_kwargs": {"until": ["\n"], "max_gen_toks": 2},
            "metric_list": [{"metric": "exact_match"}],
        },
    )
    config = ModelConfig(model=tiny_student)
    student, tokenizer = load_model(config, "cpu"), load_tokenizer(config)
    spec = suite(SuiteTask(task="shots", num_fewshot=2, documents=(0, 1)), directory=tmp_path)
    [sample] = score(student, tokenizer, spec, batch_size=1, chat=False, samples=1).samples
    assert sample.prompt.count("?") == 3
    assert sample.prompt.endswith("Best?")
    chat = score(student, tokenizer, spec, batch_size=1, chat=True, samples=1, system_prompt="Sys")
    assert "<|im_start|>system\nSys<|im_end|>" in chat.samples[0].prompt


def test_an_answer_ends_with_its_turn(tmp_path: Path, tiny_student: str) -> None:
    """A model that says "yes", ends its turn, and goes on: only the turn is its answer."""
    config = ModelConfig(model=tiny_student)
    tokenizer = load_tokenizer(config)
    shape = AutoConfig.from_pretrained(tiny_student, tie_word_embeddings=False)
    student = AutoModelForCausalLM.from_config(shape).eval()
    # Each token says the next one: what a token leaves in the residual stream is its embedding.
    said = tokenizer.convert_tokens_to_ids(["y", "e", "s", "<|im_end|>", "x", "x"])
    with torch.no_grad():
        for name, weights in student.named_parameters():
            if name.endswith(("o_proj.weight", "down_proj.weight", "lm_head.weight")):
                weights.zero_()
        embeddings = student.get_input_embeddings().weight
        embeddings.zero_()
        embeddings[:, 0] = 1.0
        student.lm_head.weight[said[0], 0] = 1.0
        for place, (token, following) in enumerate(itertools.pairwise(said), start=1):
            embeddings[token] = torch.nn.functional.one_hot(torch.tensor(place), shape.hidden_size)
            student.lm_head.weight[following, place] = 1.0
    assert student.generation_config.eos_token_id == tokenizer.eos_token_id
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps({"question": "1?", "answer": "yes"}) + "\n")
    write_yaml(
        tmp_path / "turn.yaml",
        {
            "task": "turn",
            "dataset_path": "json",
            "dataset_kwargs": {"data_files": {"test": str(rows)}},
            "test_split": "test",
            "output_type": "generate_until",
            "doc_to_text": "{{question}}",
            "doc_to_target": "{{answer}}",
            "generation_kwargs": {"until": ["\n\n"], "max_gen_toks": 7},
            "metric_list": [{"metric": "exact_match"}],
        },
    )
    spec = suite(SuiteTask(task="turn"), directory=tmp_path)
    options: dict[str, Any] = {"batch_size": 1, "chat": True, "samples": 1}
    ends = end_token_ids(student, tokenizer)
    found = score(student, tokenizer, spec, end_ids=ends, **options)
    assert (found.samples[0].response, found.scores.score) == ("yes", 1.0)
    assert student.generation_config.eos_token_id == tokenizer.eos_token_id
    found = score(student, tokenizer, spec, **options)
    assert (found.samples[0].response, found.scores.score) == ("yesxxx", 0.0)


def test_prompts_of_a_task_with_everything_that_may_be_one() -> None:
    [leaf] = load_tasks(suite(SuiteTask(task="addition", documents=(3, 5))))
    found = list(prompts(leaf))
    assert len(found) == 2
    asked, texts = found[0]
    assert asked in texts
    assert asked.endswith("?")


@pytest.fixture
def coding(tmp_path: Path) -> Path:
    """A task that says that it runs what the model wrote; its own code is beside it."""
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    (tmp_path / "code.py").write_text("def ask(document):\n    return 'Q: ' + document['text']\n")
    (tmp_path / "coding.yaml").write_text(
        "task: coding\nunsafe_code: true\ndataset_path: json\n"
        "dataset_kwargs: {data_files: {test: rows.jsonl}}\ntest_split: test\n"
        "output_type: generate_until\ndoc_to_text: !function code.ask\n"
        "doc_to_target: '{{text}}'\nmetric_list: [{metric: exact_match}]\n"
        "generation_kwargs: {until: ['#'], max_gen_toks: 4}\n"
    )
    return tmp_path


def test_a_task_that_runs_answers_needs_a_key(coding: Path, model: Any, tokenizer: Any) -> None:
    found = suite(SuiteTask(task="coding"), directory=coding)
    with pytest.raises(BadInputError, match=r"evaluation\.allow_code_execution: true") as caught:
        load_tasks(found)
    assert caught.value.key == ("evaluation", "allow_code_execution")
    with pytest.raises(BadInputError, match="runs code that the model wrote"):
        score(model, tokenizer, found, batch_size=2, chat=False)
    # Functions beside a task file are the user's own, as the file is.
    [leaf] = load_tasks(found, allow_code=True)
    assert next(iter(prompts(leaf)))[0] == "Q: the quick brown fox"
    allowed = score(model, tokenizer, found, batch_size=2, chat=False, allow_code=True)
    assert allowed.scores.tasks[0].documents == len(ROWS)


def test_prompts_are_in_the_chat_template_with_the_studys_arguments(tmp_path: Path) -> None:
    model = make_tiny(tmp_path / "model", template=template("qwen3"))
    config = ModelConfig(model=model)
    student, tokenizer = load_model(config, "cpu"), load_tokenizer(config)
    set_defaults(tokenizer, OFF, "2024-07-26")
    spec = suite(SuiteTask(task="addition", documents=(0, 1)))
    [sample] = score(student, tokenizer, spec, batch_size=1, chat=True, samples=1).samples
    assert sample.prompt.endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n")


@pytest.mark.parametrize(
    ("kind", "message"), [("gemma", "System role not supported"), ("deaf", "has no place for it")]
)
def test_a_system_message_that_the_template_has_no_place_for_is_refused(
    kind: str, message: str
) -> None:
    spec = suite(SuiteTask(task="addition", documents=(0, 1)))
    config = spec.config.model_copy(update={"system_instruction": "Be brief."})
    options: dict[str, Any] = {"chat": True, "system_prompt": None, "over": 0}
    leaves = load_tasks(spec)
    with pytest.raises(BadInputError, match=message):
        text_lengths(leaves, config, chat_tokenizer(kind), **options)
    assert text_lengths(leaves, spec.config, chat_tokenizer(kind), **options)


def test_settings_that_a_publisher_saved_change_no_score(model: Any, tokenizer: Any) -> None:
    task = suite(SuiteTask(task="addition", documents=(0, 8)))
    plain = score(model, tokenizer, task, batch_size=8, chat=False, samples=8)
    published = model.generation_config
    saved = {"repetition_penalty": 1.3, "no_repeat_ngram_size": 2, "min_new_tokens": 40}
    settings = GenerationConfig(**{**published.to_dict(), **saved})
    model.generation_config = settings
    try:
        again = score(model, tokenizer, task, batch_size=8, chat=False, samples=8)
        assert model.generation_config is settings
    finally:
        model.generation_config = published
    assert again.samples == plain.samples
    assert again.scores.score == plain.scores.score > 0.5
