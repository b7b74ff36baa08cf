"""Kinds of chat templates × kinds of messages: each is rendered whole, or refused."""

from __future__ import annotations

import datetime
from typing import Any

import pytest

from sweeper.config.columns import guess_columns
from sweeper.config.data import DataConfig
from sweeper.distillation.data.chat_templates import render, set_defaults
from sweeper.distillation.data.examples import to_examples, tokenize
from sweeper.distillation.data.left_out import left_out
from sweeper.distillation.models.answer_ends import turn_end_ids
from sweeper.foundation.errors import BadInputError
from tests.support.chat_templates import (
    ASKED,
    OFF,
    RESULT,
    ROWS,
    SAID,
    TOOL,
    template,
    tokenizer,
)

DATE = "2024-07-26"


class Refused(str):
    """Why a row is refused, as a pattern."""


def data(**keys: Any) -> DataConfig:
    return DataConfig.model_validate({"train": {"path": "rows.jsonl"}, **keys})


def prepared(kind: str, **values: Any) -> Any:
    made = tokenizer(kind)
    set_defaults(made, values, DATE)
    return made


def trained(tokens: Any, row: dict[str, Any], **keys: Any) -> list[str]:
    """The answers of a row that are trained, the last one first."""
    columns = guess_columns(row)
    assert columns is not None
    examples = to_examples([row], columns, data(**keys))
    [sequence] = tokenize(examples, tokens, 9999).sequences
    left_out(examples, tokens)
    spans = [sequence.prompt[start:end] for start, end in sequence.earlier]
    return [tokens.decode(part) for part in (sequence.completion or (), *spans)]


NO_SYSTEM = r"leaves out the content of message 1 \(system\)"
GEMMA = "<end_of_turn>"
NO_CALLS = "leaves out the tool_calls of message 2"
ALTERNATE = "it says: Conversation roles must alternate"
THINKS = r"agree about the block of thoughts.*chat_template_kwargs: \{enable_thinking: false\}"
THOUGHT = r"agree about the block of thoughts.*chat_template_kwargs: \{enable_thinking: true\}"
REWRITES = "prefix-preserving"
QWEN_CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Rome"}}\n</tool_call>'
LLAMA_CALL = '{"name": "get_weather", "parameters": {"city": "Rome"}}'
GLM_CALL = (
    "\n<tool_call>get_weather\n<arg_key>city</arg_key>\n<arg_value>Rome</arg_value>\n</tool_call>"
)
GPT_CALL = ' to=functions.get_weather<|channel|>commentary json<|message|>{"city": "Rome"}<|call|>'
# What is trained of each row of ROWS, in their order (plain, system, several, call, result,
# reasoning): the end of an answer, the text of another, or why it is refused.
TABLE: dict[str, tuple[dict[str, Any], list[Any]]] = {
    "chatml": (
        {},
        [
            "<|im_end|>",
            "<|im_end|>",
            "<|im_end|>",
            Refused(NO_CALLS),
            Refused(NO_CALLS),
            "<|im_end|>",
        ],
    ),
    "zephyr": ({}, ["</s>", "</s>", "</s>", Refused(NO_CALLS), Refused(NO_CALLS), "</s>"]),
    "mistral": (
        {},
        ["</s>", Refused("alternate"), "</s>", Refused(NO_CALLS), Refused(ALTERNATE), "</s>"],
    ),
    "deaf": (
        {},
        ["</s>", Refused(NO_SYSTEM), "</s>", Refused(NO_CALLS), Refused(NO_CALLS), "</s>"],
    ),
    "gemma": (
        {},
        [GEMMA, Refused("System role"), GEMMA, Refused(NO_CALLS), Refused(ALTERNATE), GEMMA],
    ),
    "gemma3": (
        {},
        [GEMMA, GEMMA, GEMMA, Refused(NO_CALLS), Refused(ALTERNATE), GEMMA],
    ),
    "phi3": ({}, ["<|end|>"] * 3 + [Refused(NO_CALLS), Refused(NO_CALLS), "<|end|>"]),
    "glm4": ({}, ["<|user|>"] * 3 + [Refused(NO_CALLS), Refused(NO_CALLS), "<|user|>"]),
    "llama3_1": ({}, ["<|eot_id|>"] * 3 + [f"{LLAMA_CALL}<|eot_id|>", *["<|eot_id|>"] * 2]),
    "llama3_2": ({}, ["<|eot_id|>"] * 3 + [f"{LLAMA_CALL}<|eot_id|>", *["<|eot_id|>"] * 2]),
    "qwen2_5": ({}, ["<|im_end|>"] * 3 + [f"{QWEN_CALL}<|im_end|>", *["<|im_end|>"] * 2]),
    "qwen3": (
        {},
        [Refused(THINKS)] * 5 + ["<think>\nRome is sunny.\n</think>\n\nIt is clear.<|im_end|>"],
    ),
    "qwen3 off": (
        OFF,
        ["<|im_end|>"] * 3 + [f"{QWEN_CALL}<|im_end|>", "<|im_end|>", Refused(THOUGHT)],
    ),
    "glm4moe": (
        {},
        [Refused(THINKS)] * 5 + ["\n<think>Rome is sunny.</think>\nIt is clear.<|user|>"],
    ),
    "glm4moe off": (
        OFF,
        ["\nIt is clear.<|user|>"] * 3
        + [f"{GLM_CALL}<|observation|>", "\nIt is clear.<|user|>", Refused(THOUGHT)],
    ),
    "deepseek_r1_distill": ({}, [Refused(REWRITES)] * 4 + [Refused(NO_CALLS), Refused(REWRITES)]),
    "gptoss": (
        {},
        ["<|channel|>final<|message|>It is clear.<|return|>"] * 3
        + [GPT_CALL, "<|channel|>final<|message|>It is clear.<|return|>"]
        + [
            "<|channel|>analysis<|message|>Rome is sunny.<|end|><|start|>assistant"
            "<|channel|>final<|message|>It is clear.<|return|>"
        ],
    ),
}


@pytest.mark.parametrize("name", TABLE)
def test_messages_are_rendered_whole_or_refused(name: str) -> None:
    values, expected = TABLE[name]
    tokens = prepared(name.split()[0], **values)
    for (kind, row), wanted in zip(ROWS.items(), expected, strict=True):
        if isinstance(wanted, Refused):
            with pytest.raises(BadInputError, match=wanted):
                trained(tokens, row)
            continue
        [answer] = trained(tokens, row)
        text = wanted if len(wanted) > len(GEMMA) else f"It is clear.{wanted}"
        assert answer == text, (name, kind)


EARLIER: dict[str, tuple[dict[str, Any], Any, Any]] = {
    "qwen2_5": ({}, "It is clear.<|im_end|>", f"{QWEN_CALL}<|im_end|>"),
    "llama3_1": ({}, "It is clear.<|eot_id|>", f"{LLAMA_CALL}<|eot_id|>"),
    "gemma": ({}, "It is clear.<end_of_turn>", None),
    "phi3": ({}, "It is clear.<|end|>", None),
    "mistral": ({}, "It is clear.</s>", None),
    "glm4": ({}, "It is clear.<|user|>", None),
    "glm4moe": (OFF, "\nIt is clear.<|user|>", f"{GLM_CALL}<|observation|>"),
    "qwen3": (OFF, Refused("message 2 has"), Refused("message 2 has")),
    "gptoss": ({}, Refused("message 2 has"), GPT_CALL),
}


@pytest.mark.parametrize("kind", EARLIER)
def test_earlier_answers_are_trained_as_they_were_written(kind: str) -> None:
    values, *expected = EARLIER[kind]
    tokens = prepared(kind, **values)
    for row, wanted in zip(("several", "result"), expected, strict=True):
        if isinstance(wanted, Refused):
            with pytest.raises(BadInputError, match=wanted) as caught:
                trained(tokens, ROWS[row], assistant_turns="all")
            assert caught.value.key == ("data", "assistant_turns")
            assert "data.assistant_turns: last" in str(caught.value)
            assert len(trained(tokens, ROWS[row])) == 1
        elif wanted is not None:
            last, earlier = trained(tokens, ROWS[row], assistant_turns="all")
            assert earlier == wanted
            assert trained(tokens, ROWS[row]) == [last]


def test_what_a_template_leaves_out_is_counted() -> None:
    tokens = prepared("chatml")
    rows = [ROWS["reasoning"], ROWS["plain"], {**ROWS["plain"], "tools": [TOOL]}]
    rows += [
        {"messages": [{**ASKED, "name": "ann"}, SAID], "chat_template_kwargs": {"thinking": True}},
        {"messages": [{"role": "system", "content": "Rhyme."}, ASKED, SAID]},
    ]
    config = data(system_prompt="Be brief.")
    columns = guess_columns(rows[0])
    assert columns is not None
    found = left_out(to_examples(rows, columns, config), tokens, config.system_prompt)
    assert {line.partition(" of rows.jsonl")[0] for line in found} == {
        "the chat template leaves out reasoning_content of 1 assistant messages; first: row 1",
        "the chat template leaves out the tools of 1 rows; first: row 3",
        "the chat template leaves out name of 1 user messages; first: row 4",
        "the chat template has no variable 'thinking', which 1 rows set; first: row 4",
        "the chat template has the system message of 1 rows, not data.system_prompt; first: row 5",
    }


def test_white_space_that_a_template_strips_is_counted() -> None:
    texts = ["b", " b", "c\n"]
    rows = [{"prompt": "a ", "completion": text} for text in texts]
    turns = [turn(content) for text in texts for turn, content in ((user, "a "), (said, text))]
    several = [{"messages": [*turns, user("b"), said("a ")]}]
    for given, turn, count in ((rows, "last", 2), (several, "last", 1), (several, "all", 3)):
        columns = guess_columns(given[0])
        assert columns is not None
        examples = to_examples(given, columns, data(assistant_turns=turn))
        assert left_out(examples, prepared("chatml")) == ()
        [note] = left_out(examples, prepared("gemma"))
        told = f"the chat template changes the white space of {count} answers; first: row"
        assert note.startswith(told)


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def said(text: str | None, **further: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": text, **further}


def called(*values: str) -> list[dict[str, Any]]:
    """Calls of one tool, each with its own arguments."""
    functions = [{"name": "get_weather", "arguments": {"city": value}} for value in values]
    return [{"id": "a", "type": "function", "function": function} for function in functions]


NO_CONTENT = r"the chat template renders, but it leaves out the content of message 2 \("
NO_CALL = "leaves out call 2 of the tool_calls of message 2"
ROME = {"role": "system", "content": "Rome"}
# Parts whose text is somewhere else too: in another message, in a call, in the template.
HIDDEN: dict[str, tuple[str, dict[str, Any], str]] = {
    "an answer's text next to its call": (
        "llama3_1",
        {"messages": [user("Weather?"), said("Rome", tool_calls=called("Rome"))]},
        NO_CONTENT,
    ),
    "a text next to a call, as a question has it": (
        "llama3_1",
        {"messages": [user("In Rome?"), said("Rome", tool_calls=called("x")), RESULT, SAID]},
        NO_CONTENT,
    ),
    "the text of another answer": (
        "llama3_1",
        {"messages": [user("a"), said("b", tool_calls=called("x")), RESULT, said("b")]},
        NO_CONTENT,
    ),
    "a second system message": (
        "gptoss",
        {"messages": [{**ROME, "content": "In Rome"}, ROME, ASKED, SAID]},
        NO_CONTENT,
    ),
    "a system message of words of the template": (
        "deaf",
        {"messages": [{**ROME, "content": "user"}, ASKED, SAID]},
        "leaves out the content of message 1",
    ),
    "the second of two calls": (
        "gptoss",
        {"messages": [ASKED, said("", tool_calls=called("a", "b"))]},
        NO_CALL,
    ),
    "the second of two equal calls": (
        "gptoss",
        {"messages": [ASKED, said("", tool_calls=called("a", "a")), RESULT, SAID]},
        NO_CALL.replace("call 2", "call 1"),
    ),
    "the arguments of a call": (
        "names",
        {"messages": [user("In Rome?"), said("", tool_calls=called("Rome")), RESULT, SAID]},
        "leaves out the arguments of call 1 of message 2",
    ),
}


@pytest.mark.parametrize("case", HIDDEN)
def test_what_is_left_out_is_found_though_its_text_is_elsewhere(case: str) -> None:
    kind, row, message = HIDDEN[case]
    with pytest.raises(BadInputError, match=message):
        trained(prepared(kind), row)


@pytest.mark.parametrize("name", [name for name in TABLE if name != "deepseek_r1_distill"])
def test_messages_of_one_text_are_not_taken_for_each_other(name: str) -> None:
    """Each is rendered, so none is refused, whatever else has its text."""
    values = OFF if name in ("qwen3", "glm4moe") else TABLE[name][0]
    for text in ("a", "user", "Rome Rome"):
        row = {"messages": [user(text), said(text), user(text), said(text)]}
        assert text in trained(prepared(name.split()[0], **values), row)[0]


def test_parts_of_calls_and_tools_that_are_left_out_are_counted() -> None:
    calls = called("Rome", "Oslo")
    calls[0]["function"]["note"] = "x"
    row = {"messages": [ASKED, said("", tool_calls=calls)], "tools": [TOOL]}
    hammer = {**TOOL, "function": {**TOOL["function"], "name": "hammer"}}
    several = {**row, "tools": [TOOL, hammer]}
    columns = guess_columns(row)
    assert columns is not None
    tokens = prepared("qwen2_5")
    tokens.chat_template = tokens.chat_template.replace("in tools %}", "in tools[:1] %}")
    found = left_out(to_examples([row, several], columns, data()), tokens)
    assert {line.partition(" of rows.jsonl")[0] for line in found} == {
        "the chat template leaves out note of 2 calls of tools; first: row 1",
        "the chat template leaves out some tools of 1 rows; first: row 2",
    }


def test_calls_in_a_template_that_takes_text_only() -> None:
    tokens = prepared("deepseekv3")
    assert trained(tokens, ROWS["result"]) == ["It is clear.<｜end▁of▁sentence｜>"]
    [example] = to_examples([ROWS["result"]], guess_columns(ROWS["result"]), data())  # type: ignore[arg-type]
    assert '{"city": "Rome"}' in render(list(example.messages), tokens)


END = "<|im_end|>"
ENDED: dict[str, tuple[str, dict[str, Any]]] = {
    "content": ("qwen2_5", said(f"old{END}new")),
    "reasoning": ("qwen3", said("x", reasoning_content=f"old{END}new")),
    "reasoning, at its end": ("qwen3", said("new", reasoning_content=f"old{END}")),
    "arguments": ("qwen2_5", said(None, tool_calls=called(f"old{END}new"))),
    "a key of the arguments": (
        "qwen2_5",
        said(None, tool_calls=[{"name": "f", "arguments": {f"old{END}new": 1}}]),
    ),
    "the next turn's mark": ("glm4", said("old<|user|>new")),
}


@pytest.mark.parametrize("case", ENDED)
def test_an_end_token_in_any_part_of_an_answer_is_refused(case: str) -> None:
    kind, answer = ENDED[case]
    message = r"row 1 of .* without end tokens in its text, found .* before '.*new"
    with pytest.raises(BadInputError, match=message):
        trained(prepared(kind), {"messages": [ASKED, answer]})
    if kind != "qwen3":  # whose template takes out earlier thoughts
        with pytest.raises(BadInputError, match=message):
            row = {"messages": [ASKED, answer, RESULT, SAID]}
            trained(prepared(kind), row, assistant_turns="all")


def test_references_without_the_thoughts_that_a_template_asks_for_are_counted() -> None:
    brief = {"messages": [{"role": "system", "content": "Be brief."}, ASKED, SAID]}
    thought = {"messages": [ASKED, said("<think>Hm.</think>It is clear.")]}
    own = {**ROWS["plain"], "chat_template_kwargs": {"thinking": False}}
    columns = guess_columns(brief)
    assert columns is not None
    examples = to_examples([ROWS["plain"], brief, thought, own], columns, data())
    [note] = left_out(examples, prepared("modes"))
    assert note.startswith(
        "the chat template asks for thoughts in 2 rows whose references have none;"
        " write data.chat_template_kwargs: {thinking: false}; first: row 1"
    )
    assert left_out(examples, prepared("modes", thinking=False)) == ()
    assert left_out(examples, prepared("modes"), references=False) == ()
    # What such an argument does to earlier turns only is another matter.
    assert left_out(examples[:1], prepared("qwen3", enable_thinking=False)) == ()


def test_a_template_that_changes_an_answer_is_refused() -> None:
    tokens = prepared("chatml")
    tokens.chat_template = template("chatml").replace(
        "{{ message['content'] }}", "{{ message['content'] | upper }}"
    )
    with pytest.raises(BadInputError, match=r"changes the text of message 2 \(assistant\) of row"):
        trained(tokens, ROWS["plain"])


def test_an_end_token_inside_an_answer_is_refused() -> None:
    tokens = prepared("chatml")
    for text in ("yes<|im_end|>", "yes<|im_end|>\n"):  # as some data have it: at the end
        assert trained(tokens, {"prompt": "a", "completion": text})[0] == "yes<|im_end|>"
    with pytest.raises(BadInputError, match=r"row 1 of .*found '<\|im_end\|>' before 'no'"):
        trained(tokens, {"prompt": "a", "completion": "yes<|im_end|>no"})


@pytest.mark.parametrize(
    ("kind", "date", "written"),
    [
        ("llama3_2", "2025-01-02", "Today Date: 02 Jan 2025\n"),
        ("llama3_2", DATE, "Today Date: 26 Jul 2024\n"),
        ("gptoss", "2025-01-02", "Current date: 2025-01-02\n"),
    ],
)
def test_a_template_writes_the_same_date_on_every_day(kind: str, date: str, written: str) -> None:
    tokens = tokenizer(kind)
    set_defaults(tokens, {}, date)
    text = render([ASKED], tokens)
    assert written in text
    assert str(datetime.date.today().year) not in text


def test_a_date_of_the_users_own() -> None:
    tokens = prepared("llama3_2", date_string="1 May 1990")
    assert "Today Date: 1 May 1990\n" in render([ASKED], tokens)
    # As whoever loads the saved student may want another one.
    text = render([ASKED], tokens, options={"date_string": "2 May 1990"})
    assert "Today Date: 2 May 1990\n" in text


def test_a_date_of_computed_format_is_refused() -> None:
    tokens = tokenizer("chatml")
    tokens.chat_template = "{{ strftime_now(form) }}"
    with pytest.raises(BadInputError, match="computes the format"):
        set_defaults(tokens, {}, DATE)


VALUE = {"a": [1, -2.5, 1e-07, True, None], 'b"\\': "ü\n'\t{{ x }}%} 🙂"}


def test_arguments_reach_the_whole_template() -> None:
    """Macros included, and nothing of the template's own text is lost."""
    tokens = tokenizer("chatml")
    text = "\n{% macro said() %}{{ value | tojson }}{{ flag }}{% endmacro %}{{ said() }}{{ flag }}"
    tokens.chat_template = text
    wanted = tokens.apply_chat_template([ASKED], tokenize=False, value=VALUE, flag=False)
    assert wanted.startswith("\n{") and wanted.endswith("FalseFalse")
    set_defaults(tokens, {"value": VALUE, "flag": False}, DATE)
    assert render([ASKED], tokens) == wanted
    assert render([ASKED], tokens, options={"flag": 3}).endswith("33")


def test_a_template_without_arguments_keeps_its_text() -> None:
    tokens = prepared("chatml")
    assert tokens.chat_template == template("chatml")


def test_an_argument_that_the_template_lacks_is_refused() -> None:
    with pytest.raises(BadInputError, match=r"'enable_thinkin'; it has .*enable_thinking"):
        prepared("qwen3", enable_thinkin=False)
    with pytest.raises(BadInputError, match="it has none"):
        prepared("zephyr", enable_thinking=False)


def test_templates_by_name() -> None:
    """Some models have another template for prompts with tools."""
    tokens = tokenizer("chatml")
    tokens.chat_template = {"default": template("qwen3"), "tool_use": template("qwen2_5")}
    set_defaults(tokens, OFF, DATE)
    assert render([ASKED], tokens, asks=True).endswith("<think>\n\n</think>\n\n")
    assert render([ASKED], tokens, tools=[TOOL], asks=True).endswith("<|im_start|>assistant\n")


def test_rollouts_of_glm_end_where_the_next_turn_begins() -> None:
    tokens = prepared("glm4moe")
    ends = set(tokens.convert_ids_to_tokens(sorted(turn_end_ids(tokens))))
    assert ends == {"<|endoftext|>", "<|user|>", "<|observation|>"}


def test_answers_that_no_arm_trains_on_are_not_refused() -> None:
    """A student that thinks, judged by its teacher alone, may have data that do not think."""
    examples = to_examples([ROWS["plain"]], guess_columns(ROWS["plain"]), data())  # type: ignore[arg-type]
    tokenized = tokenize(examples, prepared("qwen3"), 9999, references=False)
    assert tokenized.sequences[0].completion is None
    assert tokenized.notes[0].startswith("1 references do not follow their prompts")


def test_a_row_may_have_arguments_of_its_own() -> None:
    tokens = prepared("qwen3", enable_thinking=False)
    thinks = {**ROWS["reasoning"], "chat_template_kwargs": {"enable_thinking": True}}
    [answer] = trained(tokens, thinks)
    assert answer.startswith("<think>\nRome is sunny.")
