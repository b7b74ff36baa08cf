"""What a served teacher is asked, and its answers as the student's tokens."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from sweeper.config.data import DataConfig, DatasetConfig
from sweeper.config.models import ModelConfig, StudentConfig
from sweeper.config.preparation import TeacherOutputsConfig
from sweeper.distillation.data.training_data import read_training_data, unpack_models
from sweeper.distillation.teacher import outputs
from sweeper.distillation.teacher.shared_teacher import SharedTeacher
from sweeper.foundation.errors import BadInputError
from sweeper.records import Resources, StudyInputs
from tests.support.chat_server import ChatServer, chat_server
from tests.support.training_jobs import make_study_inputs

ANSWERS = {"What is 1+2?": "3", "Name a city.": "Köln, am Rhein", "Say it.": "It."}
ROWS: list[dict[str, Any]] = [
    {"prompt": prompt, "completion": ANSWERS[prompt]} for prompt in ANSWERS
]


@pytest.fixture
def server() -> Iterator[ChatServer]:
    with chat_server(say=lambda prompt: {"content": ANSWERS[prompt]}) as running:
        yield running


def make_inputs(
    folder: Path, server: ChatServer, student: str, rows: Sequence[Any] = ROWS, **changes: Any
) -> StudyInputs:
    file = folder / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    values = {
        "teacher": ModelConfig.model_validate(server.section(**changes.pop("keys", {}))),
        "student": StudentConfig(model=student),
        "data": DataConfig(train=DatasetConfig(path="rows.jsonl"), system_prompt="Be brief."),
        "teacher_outputs": TeacherOutputsConfig(max_new_tokens=48),
        "data_files": (str(file),),
    }
    return make_study_inputs(folder, **{**values, **changes})


def get(inputs: StudyInputs) -> tuple[list[tuple[int, ...] | None], tuple[str, ...], Any]:
    """The answers, what is told of them, and the tokens of the references."""
    inputs = unpack_models(inputs)
    data = read_training_data(inputs)
    resources = Resources(directory=inputs.cache, device="cpu", threads=1)
    teacher = SharedTeacher(inputs, inputs.teacher, resources)
    answers = outputs.get_or_compute(data, teacher)
    return answers, outputs.notes(data, teacher), data


def test_texts_become_the_tokens_of_references_with_these_texts(
    tmp_path: Path, server: ChatServer, tiny_student: str
) -> None:
    answers, notes, data = get(make_inputs(tmp_path, server, tiny_student))
    references = [sequence.completion for sequence in data.tokens(1024).sequences]
    assert answers == references
    assert notes == ("the server counted 30 tokens of prompts and 120 of answers",)
    [first, *_] = sorted(server.asked, key=lambda body: str(body["messages"]), reverse=True)
    assert first == {
        "model": "adder-9000",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "What is 1+2?"},
        ],
        "temperature": 0.0,
        "max_tokens": 48,
    }


def test_an_answer_that_was_cut_has_no_end(
    tmp_path: Path, server: ChatServer, tiny_student: str
) -> None:
    server.finish = "length"
    answers, notes, data = get(make_inputs(tmp_path, server, tiny_student))
    references = [sequence.completion for sequence in data.tokens(1024).sequences]
    assert answers == [reference[:-1] for reference in references]
    assert notes[0] == (
        "3 of the 3 answers for seqkd and seq_kd were cut at 48 tokens"
        " (teacher_outputs.max_new_tokens)"
    )


def test_prompts_without_an_answer_are_left_out_and_told(
    tmp_path: Path, server: ChatServer, tiny_student: str
) -> None:
    said = {
        "What is 1+2?": {"content": None, "refusal": "No."},
        "Name a city.": {"content": "Köln"},
        "Say it.": {"content": "It.<|im_end|> And more."},
    }
    server.say = lambda prompt: said[prompt]
    inputs = make_inputs(tmp_path, server, tiny_student)
    answers, notes, data = get(inputs)
    assert [answer is None for answer in answers] == [True, False, True]
    assert notes[0].startswith(
        "2 of the 3 prompts have no answer of the teacher's, and are left out where answers are"
        " trained on: 1 refused, 1 unfit for the student's chat template"
    )
    assert notes[0].endswith("; the first is row 1 (refused)")
    resources = Resources(directory=inputs.cache, device="cpu", threads=1)
    teacher = SharedTeacher(data.inputs, data.inputs.teacher, resources)
    trained = outputs.tokens(data, teacher, 1024)
    assert trained.kept == (1,)
    assert trained.notes == ("2 prompts were left out, as the teacher has no answer to them",)
    # What was paid for is asked again by nobody.
    assert len(server.asked) == 3


def test_a_server_that_answers_nothing(
    tmp_path: Path, server: ChatServer, tiny_student: str
) -> None:
    server.say = lambda prompt: {"content": ""}
    with pytest.raises(BadInputError, match="none of its 3 replies has one; the first: empty"):
        get(make_inputs(tmp_path, server, tiny_student))


def test_sampled_answers_have_seeds_of_their_prompts(
    tmp_path: Path, server: ChatServer, tiny_student: str
) -> None:
    def seeds(rows: Sequence[Any], **changes: Any) -> dict[str, list[int]]:
        server.asked.clear()
        hot = TeacherOutputsConfig(max_new_tokens=48, temperature=0.7)
        get(make_inputs(tmp_path, server, tiny_student, rows, teacher_outputs=hot, **changes))
        found: dict[str, list[int]] = {}
        for body in server.asked:
            assert body["temperature"] == 0.7
            found.setdefault(body["messages"][-1]["content"], []).append(body["seed"])
        return found

    first = seeds(ROWS[:2])
    assert len(first["What is 1+2?"]) == 1
    # More rows, in another order, and a prompt once more: what was asked stays as it is.
    later = seeds([*ROWS[::-1], ROWS[0]])
    assert set(later) == {"Say it.", "What is 1+2?"}
    assert not set(later["What is 1+2?"]) & set(first["What is 1+2?"])
    assert set(seeds(ROWS[:2], seed=9)["What is 1+2?"]) != set(first["What is 1+2?"])
    # A server that refuses a seed gets none.
    server.asked.clear()
    hot = TeacherOutputsConfig(max_new_tokens=48, temperature=0.7)
    keys = {"extra_body": {"seed": None, "max_tokens": None, "max_completion_tokens": 48}}
    get(make_inputs(tmp_path, server, tiny_student, teacher_outputs=hot, keys=keys))
    assert all({"seed", "max_tokens"}.isdisjoint(body) for body in server.asked)
    assert {body["max_completion_tokens"] for body in server.asked} == {48}


def test_tools_are_asked_in_the_apis_form(
    tmp_path: Path, server: ChatServer, tiny_student: str
) -> None:
    schema = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}
    call = {"name": "add", "arguments": {"a": 1}}
    messages = [
        {"role": "user", "content": "What is 1+2?"},
        {"role": "assistant", "content": "", "tool_calls": [call, call], "reasoning_content": "Hm"},
        {"role": "tool", "content": "3"},
        {"role": "ipython", "content": "4", "name": "add"},
        {"role": "user", "content": "Say it.", "odd": 5},
    ]
    rows = [{"messages": messages, "tools": [schema]}]
    get(make_inputs(tmp_path, server, tiny_student, rows))
    [body] = server.asked
    assert body["tools"] == [schema]
    written = {"type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
    assert body["messages"][1:] == [
        {"role": "user", "content": "What is 1+2?"},
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"id": "call_0", **written}, {"id": "call_1", **written}],
        },
        {"role": "tool", "content": "3", "tool_call_id": "call_0"},
        {"role": "tool", "content": "4", "name": "add", "tool_call_id": "call_1"},
        {"role": "user", "content": "Say it."},
    ]


def test_arguments_of_a_template_are_refused(
    tmp_path: Path, server: ChatServer, tiny_student: str
) -> None:
    rows = [{"prompt": "Say it.", "chat_template_kwargs": {"enable_thinking": False}}]
    with pytest.raises(BadInputError, match="expected no chat_template_kwargs in "):
        get(make_inputs(tmp_path, server, tiny_student, rows))
    assert server.asked == []


def test_vllm_is_asked_by_tokens_and_answers_in_them(
    tmp_path: Path, server: ChatServer, tiny_student: str, tiny_teacher: str
) -> None:
    """Both models have the same tokenizer; the answers end as the in-process teacher's do."""
    given: dict[str, list[int]] = {}

    def complete(prompt: list[int]) -> tuple[str, dict[str, Any]]:
        text = tokenizer.decode(prompt)
        number = len(given)
        given[text] = prompt
        ids = tokenizer(["3", "Köln", "It."][number], add_special_tokens=False)["input_ids"]
        # vLLM gives the token that ended it; one that did not come through is made up for.
        ends = [[tokenizer.convert_tokens_to_ids("<|im_end|>")], [tokenizer.eos_token_id], []]
        return text, {"text": "…", "token_ids": [*ids, *ends[number]]}

    server.complete = complete
    keys = {"model": tiny_teacher, "api": "vllm", "concurrency": 1}
    inputs = make_inputs(tmp_path, server, tiny_student, keys=keys)
    tokenizer = read_training_data(unpack_models(inputs)).tokenizer
    answers, _, data = get(inputs)
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    texts = [tokenizer.decode(answer or ()) for answer in answers]
    assert texts == ["3<|im_end|>", "Köln<|endoftext|>", "It.<|im_end|>"]
    prompts = [list(sequence.prompt) for sequence in data.tokens(1024).sequences]
    assert [body["prompt"] for body in server.asked] == prompts
    assert {(body["model"], body["return_token_ids"]) for body in server.asked} == {
        (tiny_teacher, True)
    }
    plain = {"top_p": 1.0, "top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0}
    assert all(plain.items() <= body.items() for body in server.asked)
    assert all(end in body["stop_token_ids"] for body in server.asked)
