"""Mutated rows: each becomes an example, or the data are refused with the row; never less."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from sweeper.config.data import DataConfig
from sweeper.distillation.data.examples import fingerprint, to_examples
from sweeper.distillation.data.rows import columns_of, read_rows
from sweeper.foundation.errors import BadInputError

SHAPES: tuple[dict[str, Any], ...] = (
    {"prompt": "1+1", "completion": "2"},
    {"prompt": [{"role": "user", "content": "1+1"}],
     "completion": [{"role": "assistant", "content": "2"}]},
    {"messages": [{"role": "user", "content": "1+1"}, {"role": "assistant", "content": "2"}]},
    {"conversations": [{"from": "human", "value": "1+1"}, {"from": "gpt", "value": "2"}]},
    {"instruction": "add", "input": "1 1", "output": "2"},
)  # fmt: skip
VALUES: tuple[Any, ...] = (
    *(None, "", " ", 3, -1.5, float("nan"), True),
    *([], {}, [None], [[]], [{}], ["x"], {"a": {"b": []}}),
    *("user", "assistant", "system", "tool"),
    *("\x00", "\u2028", "\ufeff", "🙂", "<|im_start|>", "{{ x }}"),
    *([{"role": "user"}], {"role": "assistant", "content": None}),
)
NAMES = ("prompt", "messages", "role", "content", "weight", "tools", "x", "", "input", "train")


def mutated(value: Any, draw: random.Random) -> Any:
    """Return a value with one change somewhere inside it."""
    if isinstance(value, dict) and value and draw.random() < 0.9:
        name = draw.choice(list(value))
        kind = draw.randrange(6)
        if kind == 0:
            return {key: inner for key, inner in value.items() if key != name}
        if kind == 1:
            return {**value, draw.choice(NAMES): draw.choice(VALUES)}
        return {**value, name: mutated(value[name], draw)}
    if isinstance(value, list) and value and draw.random() < 0.8:
        index = draw.randrange(len(value))
        kind = draw.randrange(5)
        if kind == 0:
            return value[:index] + value[index + 1 :]
        if kind == 1:
            return [*value, value[index]]
        return [*value[:index], mutated(value[index], draw), *value[index + 1 :]]
    return draw.choice(VALUES)


def test_every_row_is_used_or_refused_by_its_number(tmp_path: Path) -> None:
    draw = random.Random(0)
    path = tmp_path / "rows.jsonl"
    data = DataConfig.model_validate({"train": {"path": str(path)}})
    used = refused = 0
    for _ in range(3000):
        shape = draw.choice(SHAPES)
        row = shape
        for _ in range(draw.randrange(3)):
            row = mutated(row, draw)
        if not isinstance(row, dict):
            row = {"prompt": row}
        rows = [shape, row, shape]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        read, _ = read_rows(data, (str(path),))
        assert len(read) == len(rows)
        try:
            examples = to_examples(read, columns_of(data, read), data)
        except BadInputError as error:
            refused += 1
            assert error.key[:2] == ("data", "train")
            assert "row 2 " in str(error), str(error)
            continue
        used += 1
        assert len(examples) == len(rows)
        assert len(fingerprint(examples)) == 64
    assert used > 500
    assert refused > 500
