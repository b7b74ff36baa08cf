"""Checks of the training data's columns: what arms need of them, and what is not read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sweeper.config.columns import ColumnsConfig, has_content
from sweeper.distillation.data.conversations import Example, texts
from sweeper.foundation.errors import BadInputError
from sweeper.records import RowsSummary

_USES = {
    **dict.fromkeys(
        ("completion", "response", "answer", "output", "chosen", "target", "solution", "reply"),
        "completion",
    ),
    **dict.fromkeys(("system", "system_prompt", "system_message"), "system"),
    **dict.fromkeys(("input", "context", "passage"), "input"),
    **dict.fromkeys(("tools", "functions"), "tools"),
}
"""Keys of ``data.train.columns`` that columns of these names may be meant for."""
_MEANINGS = {
    **dict.fromkeys(
        ("reasoning_content", "reasoning", "thinking", "rationale", "cot"),
        "to train on reasoning, write it as reasoning_content of the assistant's messages",
    ),
    **dict.fromkeys(
        ("history", "messages", "conversations", "dialog", "dialogue"),
        "earlier turns are read from a column of messages only (data.train.columns.messages)",
    ),
    **dict.fromkeys(
        ("images", "image", "videos", "audio"),
        "models read text alone: leave rows out that cannot be answered without it",
    ),
    **dict.fromkeys(
        ("prompt", "prompts", "question", "query", "problem", "instruction"),
        "another column is read as the prompt; name this one in data.train.columns if it is",
    ),
    "rejected": "no method trains on rejected answers",
}
"""Advice on columns of other names."""
_LOOKED_AT = 200
"""Rows from which a column is judged."""
_WORDS = 3
"""Fewest words of a text, as opposed to a name or a category."""


def check_references(rows: RowsSummary, examples: Sequence[Example], users: Sequence[str]) -> None:
    """Check that rows have the reference answers that ``users``, mostly arms, train on.

    Raises:
        BadInputError: Some have none; names the users, the first row and the columns.
    """
    missing = [n for n, example in enumerate(examples, start=1) if example.completion is None]
    if not users or not missing:
        return
    others = f" (others are {', '.join(rows.unread)})" if rows.unread else ""
    raise BadInputError(
        f"{', '.join(users)} {'trains' if len(users) == 1 else 'train'} on reference answers, but"
        f" {len(missing):,} of {len(examples):,} rows end without one, the first of them"
        f" {examples[missing[0] - 1].where(missing[0])}; read are the columns"
        f" {', '.join(rows.columns)}{others}: name that of the answers as"
        " data.train.columns.completion, or do without (seq_kd: true, lmbda: 1.0 or method seqkd)"
    )


def unused_columns(
    rows: Sequence[Mapping[str, Any]],
    columns: ColumnsConfig,
    examples: Sequence[Example],
    unread: Sequence[str],
) -> Iterator[str]:
    """Yield a sentence for each column of ``unread`` whose text is in no example."""
    for name in unread:
        filled = [i for i, row in enumerate(rows) if has_content(row.get(name))]
        looked = filled[:_LOOKED_AT]
        of = f"the column {name} of {len(filled):,} rows"
        if all(isinstance(rows[i][name], bool) for i in looked):
            yield f"{of} is true or false and is not read: leave out rows not to be trained"
            continue
        known = name.lower() in {**_USES, **_MEANINGS}
        if not known and 2 * sum(_is_text(rows[i][name]) for i in looked) < len(looked):
            continue
        if all(_is_in(rows[i][name], examples[i]) for i in looked):
            continue
        yield f"{of} holds text and is not read: {_advice(name, columns)}"


def _advice(name: str, columns: ColumnsConfig) -> str:
    key = _USES.get(name.lower())
    taken = key is not None and getattr(columns, key) is not None
    if key and not taken and (columns.messages is None or key in ("system", "tools")):
        given = {**columns.model_dump(exclude_none=True), key: name}
        written = ", ".join(f"{key}: {value}" for key, value in given.items())
        return f"to use it, write data.train.columns: {{{written}}}"
    return _MEANINGS.get(
        name.lower(), "name it in data.train.columns if it belongs to the prompt or the answer"
    )


def _is_text(value: object) -> bool:
    return any(len(text.split()) >= _WORDS for text in texts(value))


def _is_in(value: object, example: Example) -> bool:
    """Return whether an example has the text of a cell."""
    if not isinstance(value, str):
        return False
    turns = [*example.messages, *([example.answer] if example.answer else [])]
    return any(value.strip() in text for text in texts(turns))
