"""Summaries of the training data: its rows and columns, and their lengths in tokens."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sweeper.config.columns import ColumnsConfig, has_content
from sweeper.distillation.data.conversations import Example
from sweeper.distillation.data.examples import TokenizedData, conversation_hash
from sweeper.execution.worker.column_checks import unused_columns
from sweeper.foundation.data_folders import row_files, unread_files
from sweeper.foundation.secrets import redact
from sweeper.records import Lengths, RowsSummary, StudyInputs, TokenLengths


def rows_summary(
    rows: Sequence[Mapping[str, Any]],
    columns: ColumnsConfig,
    examples: Sequence[Example],
    inputs: StudyInputs,
) -> RowsSummary:
    """Return the summary of rows that were read as ``examples``: columns read, and those not."""
    source = inputs.data.train
    filled = {name for row in rows for name, value in row.items() if has_content(value)}
    named = [columns.messages, columns.prompt, columns.input, columns.completion]
    conversations = columns.prompt is None or isinstance(rows[0].get(columns.prompt), list)
    further = {"tools": columns.tools, "system": columns.system}
    named += [given or (usual if conversations else None) for usual, given in further.items()]
    named.append("chat_template_kwargs")
    read = tuple(name for name in named if name in filled)
    unread = tuple(sorted(filled - {*read}))
    prompts = [conversation_hash(example) for example in examples]
    folder = next((path for path in map(Path, inputs.data_files) if path.is_dir()), None)
    files, others = [], []
    if folder is not None:
        files = [str(p.relative_to(folder)) for p in row_files(folder, source.split)]
        others = [str(p.relative_to(folder)) for p in unread_files(folder, source.split)]
    return RowsSummary(
        rows=len(examples),
        source=redact(f"{source.path} ({source.split})"),
        columns=read,
        unread=unread,
        unused=(*_unused_keys(inputs), *unused_columns(rows, columns, examples, unread)),
        files=tuple(files),
        other_files=tuple(others),
        references=sum(example.completion is not None for example in examples),
        repeated=len(prompts) - len(set(prompts)),
    )


def _unused_keys(inputs: StudyInputs) -> Iterator[str]:
    for key in ("name", "revision"):
        if inputs.data_files and getattr(inputs.data.train, key) is not None:
            yield f"data.train.{key} is for data sets on the hub, and changes nothing: leave it out"


def token_lengths(data: TokenizedData, max_length: int) -> TokenLengths:
    """Return the lengths of prompts and references before anything is cut."""
    prompts = [prompt for prompt, _ in data.lengths]
    answers = [answer for _, answer in data.lengths if answer]
    return TokenLengths(
        max_length=max_length,
        prompts=_percentiles(prompts),
        references=_percentiles(answers) if answers else None,
        sequences=_percentiles([sum(pair) for pair in data.lengths]),
        dropped=len(data.lengths) - len(data.kept),
        cut=sum(prompt < max_length < prompt + answer for prompt, answer in data.lengths if answer),
    )


def _percentiles(lengths: list[int]) -> Lengths:
    ordered = sorted(lengths)
    # By nearest rank: each is the length of one of them.
    ranks = [max(-(-percent * len(ordered) // 100) - 1, 0) for percent in range(101)]
    return Lengths(count=len(ordered), percentiles=tuple(ordered[rank] for rank in ranks))
