"""Rows as people have them: each form of the same conversation gives the same example."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sweeper.config.columns import ColumnsConfig
from sweeper.config.data import DataConfig
from sweeper.distillation.data.examples import (
    conversation_hash,
    fingerprint,
    read_examples,
    to_examples,
)
from sweeper.foundation.errors import BadInputError
from tests.support.chat_templates import ASKED, CALL, CALLED, RESULT, ROWS, SAID, TOOL

SYSTEM = {"role": "system", "content": "Be brief."}
TURNS = [SYSTEM, ASKED, CALLED, RESULT, SAID]
FLAT_CALL = {"name": "get_weather", "arguments": '{"city": "Rome"}'}
SHAREGPT = [
    {"from": "system", "value": "Be brief."},
    {"from": "human", "value": "Weather in Rome?"},
    {"from": "function_call", "value": json.dumps(FLAT_CALL)},
    {"from": "observation", "value": RESULT["content"]},
    {"from": "gpt", "value": "It is clear."},
]
FORMS: dict[str, dict[str, Any]] = {
    "messages": {"messages": TURNS, "tools": [TOOL]},
    "JSON texts, as Arrow files have them": {
        "messages": [
            *TURNS[:2],
            {**CALLED, "content": None, "tool_calls": json.dumps([FLAT_CALL]), "name": None},
            *TURNS[3:],
        ],
        "tools": json.dumps([TOOL["function"]]),
    },
    "ShareGPT": {"conversations": SHAREGPT, "tools": json.dumps([TOOL])},
    "ShareGPT, the system message in a column": {
        "conversations": SHAREGPT[1:],
        "system": "Be brief.",
        "tools": json.dumps([TOOL]),
    },
    "prompt and completion": {"prompt": TURNS[:2], "completion": TURNS[2:], "tools": [TOOL]},
    "a former function_call": {
        "messages": [
            *TURNS[:2],
            {"role": "assistant", "content": None, "function_call": FLAT_CALL},
            {**RESULT, "role": "function"},
            {**SAID, "tool_calls": []},
        ],
        "tools": [TOOL],
    },
    "marks of what is trained": {
        "messages": [
            {**SYSTEM, "weight": 0},
            {**ASKED, "train": False},
            {**CALLED, "weight": 1},
            {**RESULT, "loss": False},
            {**SAID, "training": True, "weight": None},
        ],
        "tools": [TOOL],
    },
    "parts of content": {
        "messages": [
            SYSTEM,
            {"role": "user", "content": [{"type": "text", "text": "Weather in Rome?"}]},
            *TURNS[2:],
        ],
        "tools": [TOOL],
    },
}


def examples(*rows: dict[str, Any], columns: Any = None, **keys: Any) -> Any:
    config = DataConfig.model_validate({"train": {"path": "rows.jsonl"}, **keys})
    from sweeper.distillation.data.examples import columns_of

    named = ColumnsConfig(**columns) if columns else columns_of(config, rows)
    return to_examples(rows, named, config)


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_conversation(form: str) -> None:
    [example] = examples(FORMS[form])
    [wanted] = examples(FORMS["messages"])
    assert example == wanted
    assert wanted.messages[2] == {"role": "assistant", "content": "", "tool_calls": [CALL]}
    assert wanted.answer == SAID and wanted.tools == [TOOL]
    assert wanted.prompt == "Weather in Rome?"


@pytest.mark.parametrize("key", ["arguments", "parameters", "args", "input"])
@pytest.mark.parametrize("text", [False, True])
def test_the_arguments_of_a_call_are_read_under_each_name(key: str, text: bool) -> None:
    given: Any = json.dumps({"city": "Rome"}) if text else {"city": "Rome"}
    call = {"name": "get_weather", key: given}
    for form in (call, {"type": "function", "function": call}, {**call, "type": "tool_use"}):
        [example] = examples({"messages": [ASKED, {**CALLED, "tool_calls": [form]}]})
        assert example.answer["tool_calls"] == [CALL]
    shared = {"from": "function_call", "value": json.dumps(call)}
    [example] = examples({"conversations": [SHAREGPT[1], shared]})
    assert example.answer["tool_calls"] == [CALL]


def test_a_flat_call_keeps_its_id_and_may_lack_arguments() -> None:
    turn = {**CALLED, "tool_calls": [{"name": "f", "id": "abc", "description": None}]}
    [example] = examples({"messages": [ASKED, turn]})
    [call] = example.answer["tool_calls"]
    assert call == {"id": "abc", "type": "function", "function": {"name": "f", "arguments": {}}}


MASKED: dict[str, tuple[str, Any, bool]] = {
    "weight 0": ("weight", 0, False),
    "weight 0.0": ("weight", 0.0, False),
    "weight 1": ("weight", 1, True),
    "train false": ("train", False, False),
    "train true": ("train", True, True),
    "training false": ("training", False, False),
    "loss false": ("loss", False, False),
    "null": ("weight", None, True),
}


@pytest.mark.parametrize("case", MASKED)
@pytest.mark.parametrize("prompt", [None, "Be brief."])
def test_answers_that_are_marked_are_not_trained(case: str, prompt: str | None) -> None:
    key, value, counts = MASKED[case]
    turns = [ASKED, {**SAID, key: value}, ASKED, SAID, ASKED, SAID]
    sharegpt = [
        {"from": {"user": "human", "assistant": "gpt"}[turn["role"]], "value": turn["content"]}
        | ({key: turn[key]} if key in turn else {})
        for turn in turns
    ]
    for row in (
        {"messages": turns},
        {"conversations": sharegpt},
        {"messages": turns, "system": "Be kind."},
        {"prompt": [ASKED], "completion": turns[1:]},
    ):
        [example] = examples(row, assistant_turns="all", system_prompt=prompt)
        first = 2 if prompt or "system" in row else 1
        assert example.earlier == ((first, first + 2) if counts else (first + 2,))
        assert key not in example.messages[first]


def test_alpaca_rows_have_their_input_in_the_prompt() -> None:
    rows = [
        {"instruction": "Translate.", "input": text, "output": "Rome"}
        for text in ("Roma", "", None, " ")
    ]
    prompts = [example.prompt for example in examples(*rows)]
    assert prompts == ["Translate.\n\nRoma", *["Translate."] * 3]
    named = {"prompt": "instruction", "completion": "output"}
    assert examples(rows[0], columns=named)[0].prompt == "Translate."


def test_a_row_may_have_arguments_of_the_template_in_every_form() -> None:
    for row in (ROWS["plain"], {"prompt": "a", "completion": "b"}):
        for given in ({"thinking": False}, '{"thinking": false}'):
            [example] = examples({**row, "chat_template_kwargs": given})
            assert example.options == {"thinking": False}
        for empty in (None, {}, "", "{}"):
            assert examples({**row, "chat_template_kwargs": empty})[0].options == {}


def test_an_answer_may_call_a_tool() -> None:
    [example] = examples(ROWS["call"])
    assert example.answer == {"role": "assistant", "content": "", "tool_calls": [CALL]}
    assert example.completion == ""


def test_answers_that_are_trained() -> None:
    rows = [FORMS["messages"], FORMS["prompt and completion"], ROWS["several"], ROWS["plain"]]
    assert [e.earlier for e in examples(*rows[:1])] == [()]
    found = [examples(row, assistant_turns="all")[0] for row in rows]
    assert [example.earlier for example in found] == [(2,), (2,), (1,), ()]
    # A prompt's own answers are no completions.
    shown = {"prompt": [*ROWS["several"]["messages"][:3]], "completion": [SAID]}
    assert examples(shown, assistant_turns="all")[0].earlier == ()
    # With a system message of the study's, all moves by one.
    [moved] = examples(ROWS["several"], assistant_turns="all", system_prompt="Be brief.")
    assert moved.earlier == (2,)
    assert found[2].questions == ["Hi", "Weather in Rome?"]


def test_a_conversation_that_ends_with_a_question_is_a_prompt() -> None:
    for turns in (TURNS[:2], TURNS[:4]):
        [example] = examples({"messages": turns, "tools": [TOOL]})
        assert example.answer is None and len(example.messages) == len(turns)


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "a role of ShareGPT's": (
        {"conversations": [{"from": "robot", "value": "x"}]},
        "expected turns with value, a text, and from, one of human, .*'robot'",
    ),
    "a call that is no JSON": (
        {"conversations": [SHAREGPT[1], {"from": "function_call", "value": "f(1)"}]},
        "expected a mapping, or a mapping as JSON, in row 1 of rows.jsonl, found 'f",
    ),
    "null without calls": (
        {"messages": [ASKED, {"role": "assistant", "content": None}]},
        "expected messages with role and content in row 1",
    ),
    "an image": (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
        "expected messages with role and content in row 1",
    ),
    "several parts": (
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "x"}] * 2}]},
        "expected messages with role and content in row 1",
    ),
    "a call without a name": (
        {"messages": [ASKED, {**CALLED, "tool_calls": [{"arguments": {}}]}]},
        "expected tool_calls with a function",
    ),
    "arguments that are a list": (
        {"messages": [ASKED, {**CALLED, "tool_calls": [{"name": "f", "arguments": "[1]"}]}]},
        "expected a mapping",
    ),
    "tools that are names": ({**ROWS["plain"], "tools": ["f"]}, "expected tools as JSON schemas"),
    "a call with unknown keys for arguments": (
        {"messages": [ASKED, {**CALLED, "tool_calls": [{"name": "f", "values": {"a": 1}}]}]},
        "expected a call of a tool with one of arguments, parameters, .*'values'",
    ),
    "a call with arguments twice": (
        {"messages": [ASKED, {**CALLED, "tool_calls": [{**FLAT_CALL, "parameters": {}}]}]},
        "expected a call of a tool with one of arguments",
    ),
    "a weight between": (
        {"messages": [ASKED, {**SAID, "weight": 0.5}]},
        r"expected true or false \(1 or 0\) as weight of a message in row 1 .*found 0.5",
    ),
    "a last answer that is not to be trained": (
        {"messages": [ASKED, SAID, ASKED, {**SAID, "train": False}]},
        "expected a last answer that is trained in row 1 of rows.jsonl, but it is marked",
    ),
    "a part of an answer that is marked": (
        {"messages": [ASKED, {**SAID, "train_detail": [{"train": False}]}]},
        "as train_detail of a message in row 1",
    ),
    "two system messages": (
        {"messages": TURNS, "system": "Be kind."},
        "one system message in row 1 .*'Be brief.' among its turns and 'Be kind.' in column",
    ),
    "a system message that is no text": (
        {"messages": TURNS[1:], "system": ["Be brief."]},
        r"expected text in column 'system', row 1 .*\['Be brief.'\]",
    ),
    "an input that is no text": (
        {"instruction": "x", "input": ["y"], "output": "z"},
        "expected text in column 'input', row 1",
    ),
    "arguments of the template that are a list": (
        {**ROWS["plain"], "chat_template_kwargs": "[1]"},
        "in chat_template_kwargs of row 1 of rows.jsonl, found",
    ),
    "an argument that is the tool's own": (
        {"prompt": "a", "completion": "b", "chat_template_kwargs": {"chat_template": "x"}},
        "found 'chat_template', which sweeper gives, in chat_template_kwargs of row 1",
    ),
    "a completion that ends with a question": (
        {"prompt": [ASKED], "completion": [SAID, ASKED]},
        "expected an assistant message at the end of 'completion', row 1",
    ),
    "two answers": ({"messages": [ASKED, SAID, SAID]}, "before the answer in row 1"),
    "an answer to nothing": ({"messages": [SAID]}, "before the answer in row 1"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_told_with_its_row(case: str) -> None:
    row, message = WRONG[case]
    with pytest.raises(BadInputError, match=message) as caught:
        examples(row)
    assert caught.value.key == ("data", "train", "columns")


def test_columns_that_are_named_must_be_there() -> None:
    columns = {"prompt": "q", "completion": "a", "tools": "functions"}
    row = {"q": "Weather in Rome?", "a": "It is clear.", "functions": [TOOL], "tools": "hammer"}
    assert examples(row, columns=columns)[0].tools == [TOOL]
    # A text's row may have such a column for another reason.
    assert examples(row, columns={"prompt": "q", "completion": "a"})[0].tools is None
    with pytest.raises(BadInputError, match=r"no column 'functions' in rows\.jsonl, only a, q"):
        examples({"q": "x", "a": "y"}, columns=columns)


def test_everything_of_a_conversation_is_in_its_fingerprint() -> None:
    [first] = examples(FORMS["messages"])
    changed = [
        {**FORMS["messages"], "tools": None},
        {**FORMS["messages"], "chat_template_kwargs": {"a": 1}},
        {**FORMS["messages"], "messages": [*TURNS[:-1], {**SAID, "reasoning_content": "x"}]},
        {**FORMS["messages"], "messages": [SYSTEM, {**ASKED, "name": "x"}, *TURNS[2:]]},
    ]
    prints = {fingerprint(examples(row)) for row in changed} | {fingerprint([first])}
    assert len(prints) == 5
    assert fingerprint(examples(FORMS["messages"], assistant_turns="all")) not in prints


def test_the_fingerprint_of_plain_rows_stays_that_of_earlier_versions() -> None:
    [example] = examples({"prompt": "a", "completion": "b"})
    assert fingerprint([example]) == (
        "4f49e787e6413c59a5b173789d9465e49f2a177f45514dd957068ec1ee0a219d"
    )


def test_conversations_repeat_only_as_a_whole() -> None:
    again = {"role": "user", "content": "Continue"}
    rows = [{"messages": [ask, SAID, again, SAID]} for ask in (ASKED, SYSTEM | {"role": "user"})]
    hashes = {conversation_hash(example) for example in examples(*rows)}
    assert len(hashes) == 2


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_keys_that_other_rows_have_are_not_filled_in(tmp_path: Path, suffix: str) -> None:
    """Arrow gives every row the keys of all; schemas of tools would have them as null."""
    other = json.loads(json.dumps(TOOL).replace('"city"', '"place"'))
    rows = [ROWS["call"], {**ROWS["plain"], "tools": [other]}]
    path = tmp_path / f"rows.{suffix}"
    if suffix == "parquet":
        from datasets import Dataset

        Dataset.from_list(rows).to_parquet(path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    config = DataConfig.model_validate({"train": {"path": str(path)}})
    found = read_examples(config, [str(path)])
    assert [example.tools for example in found] == [[TOOL], [other]]
    assert found[0].answer is not None
    assert found[0].answer["tool_calls"] == [CALL]
