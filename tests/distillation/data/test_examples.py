from __future__ import annotations

import json
from pathlib import Path

import pytest

from sweeper.config.columns import ColumnsConfig
from sweeper.config.data import DataConfig, DatasetConfig
from sweeper.config.models import ModelConfig
from sweeper.distillation.data.conversations import Example
from sweeper.distillation.data.examples import (
    fingerprint,
    prompt_hash,
    read_examples,
    render_prompt,
    tokenize,
)
from sweeper.distillation.models.loading import load_tokenizer
from sweeper.foundation.errors import BadInputError
from tests.support.tiny_studies import DATA


def data(path: str, **keys: object) -> DataConfig:
    return DataConfig(train=DatasetConfig(path=path, **keys))  # type: ignore[arg-type]


def write_rows(path: Path, rows: list[dict[str, object]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_question_and_answer_are_found_without_being_named() -> None:
    path = str(DATA / "gsm8k-train.jsonl")
    examples = read_examples(data(path), [path])
    assert len(examples) == 48
    assert examples[0].prompt.startswith("Natalia sold clips")
    assert examples[0].completion is not None
    assert examples[0].completion.endswith("#### 72")


def test_limit_and_system_prompt() -> None:
    path = str(DATA / "gsm8k-train.jsonl")
    config = DataConfig(train=DatasetConfig(path=path, limit=3), system_prompt="Be brief.")
    examples = read_examples(config, [path])
    assert len(examples) == 3
    assert examples[0].messages[0] == {"role": "system", "content": "Be brief."}


@pytest.mark.parametrize("suffix", ["csv", "parquet", "json"])
def test_formats_of_local_files(tmp_path: Path, suffix: str) -> None:
    import pandas

    path = tmp_path / f"rows.{suffix}"
    table = pandas.DataFrame({"ask": ["a?", "b?"], "say": ["A", "B"]})
    if suffix == "json":
        table.to_json(path, orient="records")
    else:
        getattr(table, f"to_{suffix}")(path, index=False)
    columns = ColumnsConfig(prompt="ask", completion="say")
    examples = read_examples(data(str(path), columns=columns), [str(path)])
    assert [(e.prompt, e.completion) for e in examples] == [("a?", "A"), ("b?", "B")]


def test_messages_with_and_without_an_answer(tmp_path: Path) -> None:
    user, assistant = {"role": "user", "content": "hi"}, {"role": "assistant", "content": "yo"}
    path = write_rows(
        tmp_path / "rows.jsonl", [{"messages": [user, assistant]}, {"messages": [user]}]
    )
    answered, open_ended = read_examples(data(path), [path])
    assert (answered.completion, open_ended.completion) == ("yo", None)
    assert answered.messages == open_ended.messages


def test_unknown_columns_are_named(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "rows.jsonl", [{"q": "a", "a": "b"}])
    with pytest.raises(BadInputError, match="a, q") as error:
        read_examples(data(path), [path])
    assert error.value.key == ("data", "train", "columns")


def test_a_cell_that_is_no_text_is_named(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "rows.jsonl", [{"prompt": "a"}, {"prompt": None}])
    with pytest.raises(BadInputError, match=r"'prompt', row 2 of .*found None"):
        read_examples(data(path), [path])


def test_a_missing_column_is_named() -> None:
    path = str(DATA / "gsm8k-train.jsonl")
    columns = ColumnsConfig(prompt="question", completion="reply")
    with pytest.raises(BadInputError, match=r"no column 'reply' in row 1 .*answer, question"):
        read_examples(data(path, columns=columns), [path])


def test_no_rows(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("prompt,completion\n")
    with pytest.raises(BadInputError, match=r"no data|found none"):
        read_examples(data(str(path)), [str(path)])


def test_tokens_of_a_chat_example(tiny_student: str) -> None:
    tokenizer = load_tokenizer(ModelConfig(model=tiny_student))
    example = Example(({"role": "user", "content": "hi"},), "yo")
    [sequence] = tokenize([example], tokenizer, 200).sequences
    assert tokenizer.decode(sequence.prompt) == render_prompt(example, tokenizer)
    assert sequence.completion is not None
    assert tokenizer.decode(sequence.completion) == "yo<|im_end|>"


def test_a_model_without_a_template_gets_the_plain_one() -> None:
    tokenizer = load_tokenizer(ModelConfig(model="builtin/adder-student"))
    example = Example(({"role": "user", "content": "1+2?"},), "#3")
    [sequence] = tokenize([example], tokenizer, 90).sequences
    assert sequence.completion is not None
    assert tokenizer.decode(sequence.prompt) == "1+2?"
    assert sequence.completion[-1] == tokenizer.eos_token_id


def test_long_answers_are_cut_and_long_prompts_dropped(tiny_student: str) -> None:
    tokenizer = load_tokenizer(ModelConfig(model=tiny_student), plain=True)
    short = Example(({"role": "user", "content": "a" * 10},), "b" * 50)
    long = Example(({"role": "user", "content": "a" * 40},), "b")
    tokenized = tokenize([short, long], tokenizer, 40)
    [sequence] = tokenized.sequences
    assert len(sequence.prompt) == 10
    assert sequence.completion is not None
    assert len(sequence.completion) == 30
    assert tokenized.kept == (0,)
    assert [note.split()[0] for note in tokenized.notes] == ["1", "1"]


def test_no_room_for_any_prompt(tiny_student: str) -> None:
    tokenizer = load_tokenizer(ModelConfig(model=tiny_student), plain=True)
    with pytest.raises(BadInputError) as error:
        tokenize([Example(({"role": "user", "content": "a" * 9},), "b")], tokenizer, 9)
    assert error.value.key == ("training", "max_length")


def test_a_template_that_rewrites_the_prompt_is_refused(tiny_student: str) -> None:
    tokenizer = load_tokenizer(ModelConfig(model=tiny_student))
    tokenizer.chat_template = (
        "{{ messages | length }}{% for m in messages %}{{ m.content }}{% endfor %}"
    )
    with pytest.raises(BadInputError, match="prefix-preserving"):
        tokenize([Example(({"role": "user", "content": "a"},), "b")], tokenizer, 90)


def test_hashes_see_what_they_should() -> None:
    one = Example(({"role": "user", "content": "a"},), "b")
    other = Example(({"role": "user", "content": "a"},), "c")
    assert fingerprint([one]) != fingerprint([other])
    assert prompt_hash(" a  b\n") == prompt_hash("a b") != prompt_hash("ab")


def test_what_a_template_refuses_is_told(tiny_student: str) -> None:
    tokenizer = load_tokenizer(ModelConfig(model=tiny_student))
    tokenizer.chat_template = "{{ raise_exception('no system messages') }}"
    with pytest.raises(BadInputError, match="it says: no system messages") as caught:
        tokenize([Example(({"role": "user", "content": "a"},), "b")], tokenizer, 90)
    assert caught.value.key == ("data", "train")
