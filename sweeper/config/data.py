"""The data of a study: the rows to train on, and how they become prompts."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from sweeper.config.base import PositiveInt, Strict
from sweeper.config.columns import ColumnsConfig


class DatasetConfig(Strict):
    """Rows to train on."""

    path: Annotated[str, Field(min_length=1)]
    """A hub id, a local json, jsonl, parquet or csv file, or `builtin/NAME`."""
    name: str | None = None
    """The hub dataset's configuration."""
    revision: str | None = None
    """The hub revision."""
    split: str = "train"
    """The split."""
    limit: PositiveInt | None = None
    """Use only the first so many rows."""
    columns: ColumnsConfig | None = None
    """Columns that hold prompts and answers; guessed for `messages`, `prompt` and `completion`, and
    for `question` and `answer`."""


class DataConfig(Strict):
    """The data of a study."""

    train: DatasetConfig
    """The prompts, with or without reference answers, that every arm trains on."""
    system_prompt: str | None = None
    """A system message put before every prompt."""
    format: Literal["auto", "chat", "plain"] = "auto"
    """`chat` uses the student's chat template, `plain` joins prompt, completion and end token;
    `auto`: chat if there is a template."""
