"""A prompt is the same token ids wherever a model reads it: in training, rollouts and scoring."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest
from tokenizers.processors import TemplateProcessing
from transformers import AutoModelForCausalLM, AutoTokenizer

from sweeper.config.data import DataConfig, DatasetConfig
from sweeper.config.models import ModelConfig, StudentConfig
from sweeper.config.preparation import TeacherOutputsConfig
from sweeper.config.settings import MethodSettings
from sweeper.config.suite import SuiteConfig, SuiteTask
from sweeper.distillation.data.examples import tokenize
from sweeper.distillation.data.training_data import read_training_data
from sweeper.distillation.models.answer_ends import end_token_ids
from sweeper.distillation.start import starting_student
from sweeper.distillation.train import TrainingJob, distil
from sweeper.evaluation.scoring import score
from sweeper.records import Resources, StudyInputs, SuiteSpec
from tests.support import training_jobs as jobs
from tests.support.tiny_studies import CHAT_TEMPLATE, make_model, write_yaml

BEGIN = "<|begin|>"
QUESTIONS = ("1+2?", " a space before and after ", "Ünïcode – 学\nin two lines\n", "#")
PLAIN_TEXT = "{question}"
CHAT_TEXT = "<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"
PADDING = 0
"""The tokens of ``make_model`` begin with the end token, which also pads."""


@dataclass(frozen=True)
class Case:
    """A tokenizer, a format, and what the model must read."""

    begins: bool
    """Whether the tokenizer itself puts a token before every text."""
    template: str | None
    format: Literal["auto", "chat", "plain"]
    system_prompt: str | None
    text: str
    """What the model reads after the first token, if there is one."""
    first_token: bool
    ends: bool = False
    """Whether the tokenizer itself puts its end token after every text."""


SYSTEM = "<|im_start|>system\nBe brief.<|im_end|>\n"
CASES = {
    "plain": Case(False, None, "auto", None, PLAIN_TEXT, False),
    "plain, begin token": Case(True, None, "auto", None, PLAIN_TEXT, True),
    "plain, begin and end token": Case(True, None, "auto", None, PLAIN_TEXT, True, ends=True),
    "plain though there is a template": Case(
        True, "{{ bos_token }}" + CHAT_TEMPLATE, "plain", None, PLAIN_TEXT, True
    ),
    "chat": Case(False, CHAT_TEMPLATE, "auto", "Be brief.", SYSTEM + CHAT_TEXT, False),
    "chat, begin token in the template": Case(
        True, "{{ bos_token }}" + CHAT_TEMPLATE, "chat", "Be brief.", SYSTEM + CHAT_TEXT, True
    ),
    "chat, begin token not in the template": Case(
        True, CHAT_TEMPLATE, "auto", None, CHAT_TEXT, False
    ),
}


@pytest.fixture(scope="module")
def make_pair(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Case], str]:
    """Writes a model whose tokenizer is that of a case."""

    def make(case: Case) -> str:
        directory = tmp_path_factory.mktemp("model")
        make_model(directory, layers=1, width=16, chat=False)
        tokenizer = AutoTokenizer.from_pretrained(directory)
        if case.begins:
            tokenizer.add_special_tokens({"bos_token": BEGIN})
            first = (BEGIN, tokenizer.convert_tokens_to_ids(BEGIN))
            end = (tokenizer.eos_token, tokenizer.eos_token_id)
            after = f" {end[0]}" if case.ends else ""
            tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
                single=f"{BEGIN} $A{after}",
                pair=f"{BEGIN} $A {BEGIN} $B",
                special_tokens=[first, end],
            )
        tokenizer.chat_template = case.template
        tokenizer.save_pretrained(directory)
        model = AutoModelForCausalLM.from_pretrained(directory)
        model.resize_token_embeddings(len(tokenizer))
        model.save_pretrained(directory)
        return str(directory)

    return make


@contextmanager
def reading(model: Any) -> Iterator[list[tuple[int, ...]]]:
    """Notes every row that the body of ``model`` reads from its start, padding left out."""
    rows: list[tuple[int, ...]] = []

    def note(module: Any, arguments: Any, options: dict[str, Any]) -> None:
        tokens = options["input_ids"] if "input_ids" in options else arguments[0]
        # Likelihoods and training need no mask: rows are padded at their ends.
        mask = options.get("attention_mask")
        mask = (tokens != PADDING).long() if mask is None else mask
        if tokens.shape != mask.shape:
            return  # one more token of rows that have been read before
        for row, kept in zip(tokens, mask, strict=True):
            rows.append(tuple(row[kept == 1].tolist()))

    handle = model.base_model.register_forward_pre_hook(note, with_kwargs=True)
    try:
        yield rows
    finally:
        handle.remove()


def make_study_inputs(case: Case, model: str, folder: Path) -> StudyInputs:
    rows = folder / "rows.jsonl"
    rows.write_text("".join(json.dumps({"prompt": q, "completion": "3"}) + "\n" for q in QUESTIONS))
    return jobs.make_study_inputs(
        folder,
        teacher=ModelConfig(model=model),
        student=StudentConfig(model=model),
        data=DataConfig(
            train=DatasetConfig(path=str(rows)),
            format=case.format,
            system_prompt=case.system_prompt,
        ),
        data_files=(str(rows),),
        teacher_outputs=TeacherOutputsConfig(max_new_tokens=2),
    )


def make_suite(folder: Path) -> SuiteSpec:
    """One task that generates and one that compares likelihoods, on the training questions."""
    common: dict[str, Any] = {
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(folder / "rows.jsonl")}},
        "test_split": "test",
        "doc_to_text": "{{prompt}}",
    }
    generation = {
        "task": "generation",
        "output_type": "generate_until",
        "doc_to_target": "{{completion}}",
        "generation_kwargs": {"until": ["\n"], "max_gen_toks": 2},
        "metric_list": [{"metric": "exact_match"}],
    }
    choice = {
        "task": "choice",
        "output_type": "multiple_choice",
        "doc_to_choice": ["3", "4"],
        "target_delimiter": "",
        "doc_to_target": 0,
        "metric_list": [{"metric": "acc"}],
    }
    for task in (generation, choice):
        write_yaml(folder / f"{task['task']}.yaml", {**common, **task})
    tasks = tuple(SuiteTask(task=name) for name in ("generation", "choice"))
    return SuiteSpec(
        config=SuiteConfig(suite="s", tasks=tasks),
        task_directories=(str(folder),),
        content_hash="h",
    )


@pytest.mark.parametrize("name", CASES)
def test_training_rollouts_and_scoring_read_the_same_prompts(
    make_pair: Callable[[Case], str], tmp_path: Path, name: str
) -> None:
    case = CASES[name]
    inputs = make_study_inputs(case, make_pair(case), tmp_path)
    resources = Resources(directory=str(tmp_path), device="cpu", threads=1)
    training_data = read_training_data(inputs)
    tokenizer = training_data.tokenizer
    assert training_data.chat is (case.text != PLAIN_TEXT)
    assert (tokenizer("a")["input_ids"][0] == tokenizer.bos_token_id) is case.begins

    # Spelt out: the begin token where it belongs, then bytes and special tokens, one by one.
    begin = [tokenizer.bos_token_id] if case.first_token else []
    expected = set()
    for question in QUESTIONS:
        text = case.text.format(question=question)
        expected.add((*begin, *tokenizer(text, add_special_tokens=False)["input_ids"]))
    assert len(expected) == len(QUESTIONS)

    data = tokenize(training_data.examples, tokenizer, 512)
    assert {sequence.prompt for sequence in data.sequences} == expected

    student = starting_student(training_data, resources)
    options: dict[str, Any] = {
        "max_steps": 1,
        "per_device_train_batch_size": len(QUESTIONS),
        "lmbda": 1.0,
        "max_new_tokens": 2,
        "max_length": 512,
    }
    job = TrainingJob(
        data=training_data,
        resources=resources,
        model=student,
        teacher=inputs.teacher,
        method="gkd",
        settings=MethodSettings(**options),
        seed=1,
    )
    with reading(student) as rows:
        distil(job)
    # Between the two, the trainer tries out how the model is read, on tokens of no meaning.
    rollouts, trained = rows[: len(QUESTIONS)], rows[-len(QUESTIONS) :]
    assert set(rollouts) == expected
    assert sorted(trained) == sorted(
        next(row for row in trained if row[: len(prompt)] == prompt) for prompt in expected
    )

    with reading(student) as rows:
        score(
            student,
            tokenizer,
            make_suite(tmp_path),
            batch_size=2,
            chat=training_data.chat,
            end_ids=end_token_ids(student, tokenizer),
            system_prompt=case.system_prompt,
        )
    # For likelihoods all but the last token is read; the answers have one.
    assert len(rows) >= 2 * len(QUESTIONS)
    assert set(rows) == expected
