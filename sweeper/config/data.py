"""The data of a study: the rows to train on, and how they become prompts."""

from __future__ import annotations

import datetime
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from sweeper.config.base import JsonMapping, PositiveInt, Problems, Strict, short
from sweeper.config.columns import ColumnsConfig

_GIVEN = (
    "messages",
    "tools",
    "documents",
    "conversation",
    "chat_template",
    "tokenize",
    "tokenizer_kwargs",
    "add_generation_prompt",
    "continue_final_message",
    "sanitize_control_tokens",
    "padding",
    "truncation",
    "max_length",
    "return_tensors",
    "return_dict",
    "return_assistant_tokens_mask",
)
"""Arguments of `apply_chat_template` that are sweeper's to give."""


def template_kwargs_problem(name: str) -> str | None:
    """Say why ``chat_template_kwargs`` cannot have this key; None if it can."""
    if name in _GIVEN:
        return f"expected an argument of the template's own, found {name!r}, which sweeper gives"
    if not name.isidentifier():
        return f"expected the name of a variable of the chat template, found {short(name)}"
    return None


class DatasetConfig(Strict):
    """Rows to train on."""

    path: Annotated[str, Field(min_length=1)]
    """A hub id, a local file or folder of rows (json, jsonl, csv, tsv, parquet, arrow; packed too),
    or `builtin/NAME`. A relative path starts from the study file's folder, else from the working
    directory."""
    field: str | None = None
    """Key of the list of rows in a JSON file that holds one object, as in `{"examples": […]}`."""
    name: str | None = None
    """The hub dataset's configuration."""
    revision: str | None = None
    """The hub revision."""
    split: str = "train"
    """The split; of a local folder, the files whose names say it. A local file has none."""
    limit: PositiveInt | None = None
    """Use only the first so many rows."""
    columns: ColumnsConfig | None = None
    """Columns that hold prompts and answers; guessed for `messages`, `conversations`, `prompt` and
    `completion`, `question` and `answer`, and `instruction`, `input` and `output`."""


class DataConfig(Strict):
    """The data of a study."""

    train: DatasetConfig
    """The prompts, with or without reference answers, that every arm trains on."""
    system_prompt: str | None = None
    """A system message put before every prompt."""
    format: Literal["auto", "chat", "plain"] = "auto"
    """`chat` uses the student's chat template, `plain` joins prompt, completion and end token;
    `auto`: chat if there is a template."""
    assistant_turns: Literal["last", "all"] = "last"
    """Answers of a conversation that are trained: the `last`, or `all`, each after what came before
    it. Rollouts and the teacher's own answers take the place of the last one."""
    chat_template_kwargs: JsonMapping = {}
    """Arguments of the student's chat template, wherever a prompt is made: training, rollouts,
    teacher outputs, scores and the saved student. `{enable_thinking: false}` for Qwen3."""
    date: str = "2024-07-26"
    """The day that a chat template writes for today's, so that prompts are equal on every day."""

    @field_validator("date", mode="before")
    @classmethod
    def _check_date(cls, value: object) -> object:
        if isinstance(value, datetime.date):
            value = value.isoformat()
        try:
            return datetime.date.fromisoformat(value).isoformat()  # type: ignore[arg-type]
        except (TypeError, ValueError):
            problems = Problems()
            problems.add((), f"expected a day such as 2024-07-26, found {short(value)}")
            problems.raise_if_any()
        return value

    @model_validator(mode="after")
    def _check(self) -> DataConfig:
        problems = Problems()
        for name in self.chat_template_kwargs:
            if message := template_kwargs_problem(name):
                problems.add(("chat_template_kwargs", name), message)
        if self.format == "plain" and self.chat_template_kwargs:
            problems.add(("chat_template_kwargs",), "has no effect with data.format: plain")
        problems.raise_if_any()
        return self
