"""Rows as people bring them: they are read, or refused with row, cause and the way on."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from sweeper.config.data import DataConfig
from sweeper.distillation.data.chat_templates import check_default
from sweeper.distillation.data.conversations import Example
from sweeper.distillation.data.examples import check_template, read_examples, to_examples, tokenize
from sweeper.distillation.data.left_out import left_out
from sweeper.distillation.data.misread import misread
from sweeper.distillation.data.rows import columns_of, read_rows
from sweeper.execution.worker.column_checks import unused_columns
from sweeper.execution.worker.summaries import rows_summary
from sweeper.foundation.errors import BadInputError, blaming
from sweeper.records import StudyInputs
from tests.support.chat_templates import ASKED, CALLED, SAID, TOOL, tokenizer
from tests.support.data_checks import inspected, study_on, write_rows

MISTRAL_LAST = (
    "{%- if messages[0]['role'] == 'system' %}{%- set sys = messages[0]['content'] %}"
    "{%- set rest = messages[1:] %}{%- else %}{%- set rest = messages %}{%- endif %}"
    "{%- for m in rest %}{%- if m['role'] == 'user' %}"
    "{{- '[INST] ' + (sys + '\n\n' if loop.last and sys is defined else '') + m['content'] }}"
    "{{- '[/INST]' }}{%- else %}{{- ' ' + m['content'] + '<|im_end|>' }}{%- endif %}{%- endfor %}"
)
"""Puts the system message into the last user message, as Mistral's templates do."""
GEMMA = (
    "{%- if messages[0]['role'] == 'system' %}{{- raise_exception('System role not supported') }}"
    "{%- endif %}{%- for m in messages %}{%- if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{- raise_exception('Conversation roles must alternate') }}{%- endif %}"
    "{{- '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"
)


def tokens(kind: str = "chatml") -> Any:
    """Return a tokenizer with a kind of template, or with its text."""
    made = tokenizer("chatml" if "{" in kind else kind)
    made.chat_template = kind if "{" in kind else made.chat_template
    return made


def rows(count: int = 4) -> list[dict[str, Any]]:
    return [{"prompt": f"what is {n} plus 1?", "completion": str(n + 1)} for n in range(count)]


def chat(*turns: dict[str, Any], **further: Any) -> dict[str, Any]:
    return {"messages": list(turns), **further}


def examples(
    folder: Path, data: list[Any], name: str = "train.jsonl", **train: Any
) -> list[Example]:
    """Return the examples of rows that are written to a file."""
    write_rows(folder / name, data)
    config = DataConfig.model_validate({"train": {"path": name, **train}})
    return read_examples(config, [str(folder / name)])


def refusal(folder: Path, data: list[Any], kind: str = "chatml", **train: Any) -> str:
    """Return what is told of rows on the whole way to tokens."""
    with pytest.raises(BadInputError) as caught, blaming("data", "train"):
        found = examples(folder, data, **train)
        tokenize(found, tokens(kind), 400)
        left_out(found, tokens(kind))
    assert caught.value.key[:2] == ("data", "train")
    return str(caught.value)


def warnings(folder: Path, data: list[Any], kind: str = "chatml") -> list[str]:
    """Return what is warned of in rows that can be used."""
    found = examples(folder, data)
    made = tokens(kind)
    tokenize(found, made, 400)
    return [*left_out(found, made), *misread(found, made, chat=True)]


def unused(data: list[dict[str, Any]]) -> list[str]:
    """Return what is told of columns that are not read."""
    config = DataConfig.model_validate({"train": {"path": "train.jsonl"}})
    columns = columns_of(config, data)
    read = set(columns.model_dump(exclude_none=True).values())
    names = sorted({name for row in data for name in row} - read)
    return list(unused_columns(data, columns, to_examples(data, columns, config), names))


def test_null_rows(tmp_path: Path) -> None:
    data = rows()
    data[1]["completion"] = data[3]["completion"] = None
    assert refusal(tmp_path, data) == (
        "expected text in column 'completion', row 2 of train.jsonl (line 2), found None;"
        " 2 of 4 rows cannot be used"
    )


def test_row_not_named(tmp_path: Path) -> None:
    system = {"role": "system", "content": "Be brief."}
    data = [chat(ASKED, SAID), chat(system, ASKED, SAID), chat(ASKED, SAID)]
    assert refusal(tmp_path, data, GEMMA) == (
        "row 2 of train.jsonl (line 2): expected messages that the chat template takes, but it"
        " says: System role not supported; write the system message into the user's, or use"
        " data.format: plain; 1 of 3 rows cannot be used"
    )
    data[1] = chat(ASKED, ASKED, SAID)
    told = refusal(tmp_path, data, GEMMA)
    assert "roles must alternate; join messages of one role that follow each other" in told
    data[1] = chat(ASKED, CALLED, {"role": "tool", "content": "5"}, SAID)
    assert "rows with these roles (user, assistant, tool)" in refusal(tmp_path, data, GEMMA)


def test_mistral_system_prompt(tmp_path: Path) -> None:
    told = (
        "expected no system message, because the chat template moves it once there is an answer:"
        " the prompt has '[INST] Weather in Rome?"
    )
    with pytest.raises(BadInputError) as caught:
        check_template(tokens(MISTRAL_LAST), "Be brief.")
    assert caught.value.key == ("data", "system_prompt")
    assert told[:90] in str(caught.value)
    data = [chat({"role": "system", "content": "Be brief."}, ASKED, SAID)] * 2
    found = refusal(tmp_path, data, MISTRAL_LAST)
    assert found.startswith(f"row 1 of train.jsonl (line 1): {told}"[:130])
    assert "write its text into the user's messages; 2 of 2 rows" in found


def test_templates_without_default() -> None:
    made = tokens()
    made.chat_template = {"rag": made.chat_template, "tool_use": made.chat_template}
    with pytest.raises(BadInputError, match="called default, found only rag, tool_use: in a copy"):
        check_default(made)


def test_bad_json_line(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "train.jsonl", rows(2))
    path.write_text(path.read_text() + '{"prompt": "a", "completion"\n', encoding="utf-8")
    config = DataConfig.model_validate({"train": {"path": "train.jsonl"}})
    with pytest.raises(BadInputError) as caught:
        read_rows(config, (str(path),))
    assert str(caught.value).startswith(f"{path}:3: not valid JSON: Expecting ':' delimiter")


def test_lone_surrogate_and_latin_1(tmp_path: Path) -> None:
    config = DataConfig.model_validate({"train": {"path": "train.jsonl"}})
    path = tmp_path / "train.jsonl"
    for content, message in (
        (b'{"prompt": "a"}\n\n{"prompt": "\\ud83d"}\n', ":3: row 2 holds half of a surrogate pair"),
        (
            b'{"prompt": "a"}\n{"prompt": "caf\xe9"}\n',
            ":2: expected UTF-8 text, found the byte 0xe9",
        ),
    ):
        path.write_bytes(content)
        with pytest.raises(BadInputError) as caught:
            read_rows(config, (str(path),))
        assert str(caught.value).startswith(f"{path}{message}")


def test_csv_none(tmp_path: Path) -> None:
    path = tmp_path / "train.csv"
    answers = ["None", "NA", "007", "1e3", "true", ""]
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([["question", "answer"], *(["a\nb?", a] for a in answers)])
    config = DataConfig.model_validate({"train": {"path": "train.csv"}})
    with pytest.raises(BadInputError, match=r"row 6 of train.csv \(line 12\), found None; 1 of 6"):
        read_examples(config, [str(path)])
    config = DataConfig.model_validate({"train": {"path": "train.csv", "limit": 5}})
    assert [e.completion for e in read_examples(config, [str(path)])] == answers[:5]


def test_late_no_references(tmp_path: Path) -> None:
    data = [{"prompt": f"what is {n}?", "reply": f"it is {n}"} for n in range(3)]
    write_rows(tmp_path / "train.jsonl", data)
    models = {"teacher": "builtin/adder-teacher", "student": "builtin/adder-student"}
    arms = {"gkd": {"settings": {"lmbda": 1.0}}, "sft": {}, "supervised_kd": {}}
    found = inspected(study_on(tmp_path, "train.jsonl", models, arms=arms))
    [told] = [problem.message for problem in found.problems if "reference" in problem.message]
    assert told == (
        "sft, supervised_kd train on reference answers, but 3 of 3 rows end without one, the first"
        " of them row 1 of train.jsonl (line 1); read are the columns prompt (others are reply):"
        " name that of the answers as data.train.columns.completion, or do without (seq_kd: true,"
        " lmbda: 1.0 or method seqkd)"
    )
    assert found.rows is not None and found.rows.unused == (
        "the column reply of 3 rows holds text and is not read: to use it, write"
        " data.train.columns: {prompt: prompt, completion: reply}",
    )
    # A usual name of answers is found.
    given = [{"prompt": row["prompt"], "response": row["reply"]} for row in data]
    assert [e.completion for e in examples(tmp_path, given)] == ["it is 0", "it is 1", "it is 2"]


def test_sharegpt_and_trl_conversational(tmp_path: Path) -> None:
    asked, said = ASKED["content"], SAID["content"]
    turns = [{"from": "human", "value": asked}, {"from": "gpt", "value": said}]
    for data in ({"conversations": turns, "id": "0"}, {"prompt": [ASKED], "completion": [SAID]}):
        [example] = examples(tmp_path, [data])
        assert (example.prompt, example.completion) == (asked, said)
    told = refusal(tmp_path, [{"prompt": [ASKED], "completion": said}])
    assert "expected a list, or a list as JSON, in column 'completion' of row 1" in told
    told = refusal(tmp_path, [{"prompt": asked, "completion": [SAID]}])
    assert "expected text in column 'completion', row 1 of train.jsonl (line 1), found [" in told


def test_alpaca_input(tmp_path: Path) -> None:
    # The first rows may lack the key that later ones have.
    data = [{"instruction": f"Add {n}.", "output": "x"} for n in range(3)]
    data.append({"instruction": "Add.", "input": "1 and 2", "output": "3"})
    prompts = [example.prompt for example in examples(tmp_path, data)]
    assert prompts == ["Add 0.", "Add 1.", "Add 2.", "Add.\n\n1 and 2"]


def test_tool_calls_dropped(tmp_path: Path) -> None:
    told = refusal(tmp_path, [chat(ASKED, SAID), chat(ASKED, CALLED, tools=[TOOL])])
    assert "leaves out the tool_calls of message 2 (assistant) of row 2 of train.jsonl" in told
    assert told.endswith("; 1 of 2 rows cannot be used")


def test_reasoning_dropped(tmp_path: Path) -> None:
    data = [chat(ASKED, {**SAID, "reasoning_content": "Rome is sunny.", "score": 3})] * 2
    assert warnings(tmp_path, data) == [
        "the chat template leaves out reasoning_content of 2 assistant messages;"
        " first: row 1 of train.jsonl (line 1)",
        "the chat template leaves out score of 2 assistant messages;"
        " first: row 1 of train.jsonl (line 1)",
    ]


@pytest.mark.parametrize("key", ["name", "images", "refusal", "tool_call_id"])
def test_every_key_of_a_message_that_is_left_out_is_named(tmp_path: Path, key: str) -> None:
    data = [chat({**ASKED, key: "x.png"}, SAID)]
    [told] = warnings(tmp_path, data)
    assert told.startswith(f"the chat template leaves out {key} of 1 user messages; first: row 1")


def test_empty_placeholder(tmp_path: Path) -> None:
    data = [chat(ASKED, SAID), chat(ASKED, {**SAID, "content": " "})]
    assert warnings(tmp_path, data) == [
        "1 answers, the first of them row 2 of train.jsonl (line 2), are empty, and train a student"
        " to say nothing. Leave these rows out, unless that is meant."
    ]
    data[1] = chat(ASKED, {**SAID, "content": ""}, ASKED, SAID)
    [told] = warnings(tmp_path, data)
    assert told.startswith("1 rows, the first of them row 2 of train.jsonl (line 2), have an empty")


def test_already_templated(tmp_path: Path) -> None:
    done = "<|im_start|>user\nwhat is 2?<|im_end|>\n<|im_start|>assistant\n"
    data = [*rows(1), {"prompt": done, "completion": "2<|im_end|>"}]
    assert warnings(tmp_path, data) == [
        "1 prompts, the first of them row 2 of train.jsonl (line 2), hold <|im_start|>, which the"
        " chat template writes itself, so that they go through it twice. Write data.format: plain,"
        " or rows without it."
    ]
    # Also in a system message, and in any turn.
    system = {"role": "system", "content": "<|im_start|>system\nBe brief."}
    [told] = warnings(tmp_path, [chat(system, ASKED, SAID)])
    assert told.startswith("1 prompts, the first of them row 1")


def test_special_tokens_in_a_text_are_named(tmp_path: Path) -> None:
    data = [*rows(1), {"prompt": "what does <pad> mean?", "completion": "filler"}]
    [told] = warnings(tmp_path, data)
    assert told.startswith("1 rows, the first of them row 2 of train.jsonl (line 2), hold <pad> in")


def test_unused_columns_are_named_with_how_to_use_them() -> None:
    base = {"prompt": "What is one?", "completion": "One is one."}
    further = {
        "system": "Be brief.",
        "context": "A book on numbers.",
        "reasoning": "It is itself.",
        "rejected": "Two.",
        "history": [["Hello there, you", "Hi"]],
        "note": "a sentence of several words",
        "id": "row 17",
        "source": "arithmetic",
        "original": "What is one?",
    }
    told = {line.split()[2]: line.partition(": ")[2] for line in unused([{**base, **further}])}
    with_base = "to use it, write data.train.columns: {prompt: prompt, "
    assert told == {
        "system": f"{with_base}completion: completion, system: system}}",
        "context": f"{with_base}completion: completion, input: context}}",
        "reasoning": "to train on reasoning, write it as reasoning_content of the assistant's"
        " messages",
        "rejected": "no method trains on rejected answers",
        "history": "earlier turns are read from a column of messages only"
        " (data.train.columns.messages)",
        "note": "name it in data.train.columns if it belongs to the prompt or the answer",
    }
    [told_answer] = unused([{"prompt": "x", "answer": "7"}] * 3)
    assert told_answer == (
        "the column answer of 3 rows holds text and is not read: to use it, write"
        " data.train.columns: {prompt: prompt, completion: answer}"
    )
    [of_labels] = unused([{"prompt": "x", "completion": "7", "label": n > 1} for n in range(3)])
    assert of_labels.startswith(
        "the column label of 3 rows is true or false and is not read: leave"
    )
    [of_prompts] = unused([{"question": "x?", "answer": "7", "prompt": "y?"}])
    assert "another column is read as the prompt; name this one" in of_prompts
    # Text that is in the messages anyway.
    assert not unused([chat(ASKED, SAID, prompt=ASKED["content"])])


@pytest.mark.parametrize(
    ("role", "usual"),
    [("human", "user"), ("gpt", "assistant"), ("bot", "assistant"), ("User", "user")],
)
def test_roles_of_other_names_are_refused(tmp_path: Path, role: str, usual: str) -> None:
    turns = [{**turn, "role": role if turn["role"] == usual else turn["role"]}
             for turn in (ASKED, SAID)]  # fmt: skip
    told = refusal(tmp_path, [chat(ASKED, SAID), chat(*turns)])
    assert f"expected the role {usual!r} in row 2 of train.jsonl (line 2), found {role!r}" in told


def test_a_role_that_the_template_does_not_name_is_told(tmp_path: Path) -> None:
    critic = {"role": "critic", "content": "Be kind."}
    [told] = warnings(tmp_path, [chat(ASKED, SAID), chat(critic, ASKED, SAID)])
    assert "row 2 of train.jsonl (line 2), have the role 'critic', which the chat" in told
    told = refusal(tmp_path, [chat(ASKED, critic)])
    assert "at the end of row 1 of train.jsonl (line 1), found the role 'critic'" in told


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "white space": ({"prompt": "  \n"}, "expected text in column 'prompt'"),
    "white space of a user": (chat({**ASKED, "content": " "}, SAID), "in the last user message"),
    "a number": ({"prompt": "x", "completion": 42}, "found 42 (write numbers in quotes)"),
    "a list": ({"prompt": "x", "completion": ["a", "b"]}, "expected text in column 'completion'"),
    "a mapping": ({"prompt": "x", "completion": {"a": 1}}, "expected text in column 'completion'"),
    "messages as Python writes them": (
        {"prompt": "[{'role': 'user', 'content': 'x'}]"}, "found chat messages written as text"),
    "messages as JSON in a column of text": (
        {"prompt": json.dumps([ASKED])}, "found chat messages written as text"),
    "a system message alone": (
        chat({"role": "system", "content": "Be brief."}), "found the role 'system'"),
    "a text as messages": ({"messages": "hello"}, "expected a list, or a list as JSON, in column"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_meant_is_refused(tmp_path: Path, case: str) -> None:
    row, message = REFUSED[case]
    told = refusal(tmp_path, [row])
    assert message in told
    assert "row 1 of train.jsonl (line 1)" in told


def test_messages_may_be_json_in_a_cell(tmp_path: Path) -> None:
    [example] = examples(tmp_path, [{"messages": json.dumps([ASKED, SAID])}])
    assert (example.prompt, example.completion) == (ASKED["content"], SAID["content"])


def test_rows_of_two_schemas_are_refused_by_number(tmp_path: Path) -> None:
    told = refusal(tmp_path, [*rows(3), chat(ASKED, SAID)])
    assert "no column 'prompt' in row 4 of train.jsonl (line 4), only messages; 1 of 4" in told


def test_a_split_of_a_single_file_is_refused(tmp_path: Path) -> None:
    for split in ("train[:2]", "test", "validation"):
        told = refusal(tmp_path, rows(), split=split)
        assert told.startswith(
            f"expected no split for a single file, all of whose rows are read, found {split!r}"
        )
    assert len(examples(tmp_path, rows(), "test.jsonl", split="test")) == 4


def test_an_assistant_may_speak_first(tmp_path: Path) -> None:
    [example] = examples(tmp_path, [chat(SAID, ASKED, SAID)])
    assert [turn["role"] for turn in example.messages] == ["assistant", "user"]


def test_files_of_a_folder_are_told(tmp_path: Path) -> None:
    folder = tmp_path / "corpus"
    folder.mkdir()
    write_rows(folder / "a.jsonl", rows(3))
    write_rows(folder / "b.jsonl", [*rows(1), {"prompt": ""}])
    (folder / "notes.txt").write_text("x", encoding="utf-8")
    data = DataConfig.model_validate({"train": {"path": "corpus", "revision": "main"}})
    with pytest.raises(BadInputError, match=r"row 2 of corpus/b.jsonl \(line 2\).*; 1 of 5 rows"):
        read_examples(data, [str(folder)])
    write_rows(folder / "b.jsonl", rows(1))
    read, places = read_rows(data, [str(folder)])
    columns = columns_of(data, read)
    inputs = StudyInputs.model_construct(data=data, data_files=(str(folder),))
    found = rows_summary(read, columns, to_examples(read, columns, data, places), inputs)
    assert (found.files, found.other_files) == (("a.jsonl", "b.jsonl"), ("notes.txt",))
    [told] = found.unused
    assert told.startswith("data.train.revision is for data sets on the hub, and changes nothing")
