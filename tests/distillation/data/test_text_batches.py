"""Tokens in batches are those of single texts, and rows are refused in their order."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import pytest

from sweeper.config.columns import ColumnsConfig
from sweeper.config.data import DataConfig
from sweeper.distillation.data.answers import AnswerTokens, earlier_answers, last_answer
from sweeper.distillation.data.chat_templates import set_defaults
from sweeper.distillation.data.conversations import Example
from sweeper.distillation.data.examples import render_prompt, to_examples, tokenize
from sweeper.distillation.data.text_batches import _ROWS, Steps, in_batches, one_by_one
from sweeper.foundation.errors import BadInputError
from tests.support import chat_templates

KINDS = sorted({*chat_templates._WRITTEN, *chat_templates._SHIPPED})
PARTS = (
    "a",
    " the ",
    "\n",
    "  ",
    "7",
    "é",
    "字",
    "🙂",
    ".",
    "<|im_end|>"[:3],
    "'s",
    "Zürich",
    "\t",
)


class Counting:
    """A tokenizer that records what it is asked."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self.calls: list[Any] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)

    def __call__(self, texts: Any, **options: Any) -> Any:
        self.calls.append(texts)
        return self._tokenizer(texts, **options)


def rows(count: int) -> list[dict[str, Any]]:
    draw = random.Random(0)

    def text() -> str:
        return "q" + "".join(draw.choice(PARTS) for _ in range(draw.randrange(1, 30)))

    def turns() -> list[dict[str, Any]]:
        asked = {"role": "user", "content": text()}
        return [asked, {"role": "assistant", "content": text()}]

    return [
        {"messages": [turn for _ in range(draw.randrange(1, 3)) for turn in turns()]}
        for _ in range(count)
    ]


def examples(count: int, **keys: Any) -> list[Example]:
    data = DataConfig.model_validate({"train": {"path": "rows.jsonl"}, **keys})
    return to_examples(rows(count), ColumnsConfig(messages="messages"), data)


def of_each(tokenizer: Any, given: Sequence[Example], limit: int) -> list[Any]:
    """Return each row's prompt, answer and earlier answers, as single texts are tokenized."""
    answers, found = AnswerTokens.of(tokenizer), []
    for example in given:
        text = render_prompt(example, tokenizer)
        prompt = tuple(tokenizer(text, add_special_tokens=False)["input_ids"])
        if len(prompt) < limit:
            completion, _ = last_answer(example, text, answers)
            earlier = earlier_answers(example, text, answers)
            found.append((prompt, completion[: limit - len(prompt)], earlier))
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_batches_have_the_tokens_of_single_texts(kind: str) -> None:
    tokenizer = chat_templates.tokenizer(kind)
    set_defaults(tokenizer, {}, "2024-07-26")
    for turns in ("last", "all"):
        given = examples(40, assistant_turns=turns)
        try:
            # The longest prompt leaves no room, and others' answers are cut.
            limit = max(len(prompt) for prompt, _, _ in of_each(tokenizer, given, 9999))
            single = of_each(tokenizer, given, limit)
        except BadInputError as error:
            with pytest.raises(BadInputError) as caught:
                tokenize(given, tokenizer, 9999)
            assert str(error) in str(caught.value)
            continue
        tokenized = tokenize(given, tokenizer, limit)
        assert 0 < len(single) < len(given)
        together = [(s.prompt, s.completion, s.earlier) for s in tokenized.sequences]
        assert together == single


def test_a_list_of_texts_is_tokenized_at_a_time() -> None:
    counting = Counting(chat_templates.tokenizer("chatml"))
    given = examples(2 * _ROWS + 3)
    tokenize(given, counting, 999)  # type: ignore[arg-type]
    lists = [len(call) for call in counting.calls if isinstance(call, list)]
    # A prompt and an answer of every row, and the few answers that share a token with a prompt.
    assert sum(lists) >= 2 * len(given)
    assert len(lists) <= 9
    assert max(lists) == _ROWS


def test_the_first_row_in_the_data_is_the_one_that_is_named() -> None:
    """Even if a later one fails at an earlier step."""
    tokenizer = chat_templates.tokenizer("gemma")
    system = [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]
    rows = [Example(({"role": "user", "content": "u"},), "a")] * 4
    rows[3] = Example(tuple(system), "a")  # refused before its answer is made
    rows[1] = Example(({"role": "user", "content": "u"},), "<end_of_turn> and more")
    with pytest.raises(BadInputError, match=r"^row 2: .*; 2 of 4 rows cannot be used"):
        tokenize(rows, tokenizer, 99)


def test_results_and_errors_come_in_order() -> None:
    tokenizer = chat_templates.tokenizer("chatml")

    def steps(number: int) -> Steps[tuple[int, int]]:
        if number % 7 == 3:
            raise BadInputError(f"row {number}")
        tokens = yield "x" * number
        for _ in range(number % 3):
            tokens = tokens + (yield "y")
        if number % 7 == 5:
            raise RecursionError
        return number, len(tokens)

    count = _ROWS + 50
    found = list(in_batches(map(steps, range(count)), tokenizer))
    assert len(found) == count
    for number, result in enumerate(found):
        if number % 7 == 3:
            assert str(result) == f"row {number}"
        elif number % 7 == 5:
            assert isinstance(result, RecursionError)
        else:
            assert result == one_by_one(steps(number), tokenizer)
            assert isinstance(result, tuple) and result[0] == number
    assert list(in_batches([], tokenizer)) == []
