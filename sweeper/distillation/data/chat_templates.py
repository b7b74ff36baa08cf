"""Chat templates with the study's own arguments and date: each renders alike everywhere."""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Mapping
from functools import lru_cache
from itertools import pairwise
from typing import Any

import jinja2
import jinja2.meta
import jinja2.nodes
from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from sweeper.foundation.data_folders import first_line
from sweeper.foundation.errors import BadInputError

_CLOCK = "strftime_now"
"""Function by which transformers tells a template what day it is."""
_COMMON = {
    "messages",
    "tools",
    "documents",
    "add_generation_prompt",
    "raise_exception",
    _CLOCK,
}
"""Variables of templates that are no arguments of their own."""


def set_defaults(tokenizer: PreTrainedTokenizerBase, values: Mapping[str, Any], date: str) -> None:
    """Give the template its arguments and its date, in the text of the template itself.

    So everything that renders a conversation (training, rollouts, lm-eval, TRL, whoever loads the
    saved student) renders it alike. An argument that a caller gives still counts.

    Raises:
        BadInputError: The template has no such variable, or it computes the format of a date.
    """
    known = template_variables(tokenizer)
    for name in values:
        if name not in known:
            raise BadInputError(
                f"expected a variable of the chat template, found {name!r};"
                f" it has {', '.join(sorted(known)) or 'none'}"
            )
    fixed = {key: _head(text, values, date) + text for key, text in _named(tokenizer).items()}
    several = isinstance(tokenizer.chat_template, dict)
    tokenizer.chat_template = fixed if several else fixed["default"]


def check_default(tokenizer: PreTrainedTokenizerBase) -> None:
    """Check that there is a template to use, of several by name.

    Raises:
        BadInputError: None of them is called ``default``.
    """
    names = _named(tokenizer)
    if "default" not in names:
        first = next(iter(names), "NAME")
        raise BadInputError(
            f"expected a chat template called default, found only {', '.join(names) or 'none'}:"
            " in a copy of the model's folder, keep the one to use (tokenizer.chat_template ="
            f" tokenizer.chat_template[{first!r}]; tokenizer.save_pretrained(FOLDER)), or write"
            " data.format: plain"
        )


def template_variables(tokenizer: PreTrainedTokenizerBase) -> set[str]:
    """Return the variables that the chat template takes as arguments of its own."""
    return {name for text in _named(tokenizer).values() for name in _variables(text)}


def writes_date(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Return whether the chat template asks what day it is."""
    return any(_date_formats(template) for template in _named(tokenizer).values())


def _named(tokenizer: PreTrainedTokenizerBase) -> dict[str, str]:
    """Return the templates by name; most models have one."""
    given = tokenizer.chat_template
    return dict(given) if isinstance(given, dict) else {"default": str(given)}


@lru_cache(maxsize=64)
def _variables(template: str) -> frozenset[str]:
    found = jinja2.meta.find_undeclared_variables(_parsed(template))
    return frozenset(name for name in found if not name.endswith("_token")) - _COMMON


def render(
    turns: list[dict[str, Any]],
    tokenizer: PreTrainedTokenizerBase,
    *,
    tools: list[dict[str, Any]] | None = None,
    options: Mapping[str, Any] | None = None,
    asks: bool = False,
) -> str:
    """Return a conversation as text; with ``asks``, up to the start of an answer.

    Arguments of calls are mappings; a template that cannot take these (DeepSeek-V3) gets JSON text.

    Raises:
        BadInputError: The template refuses it.
    """
    given = {"tools": tools, "tokenize": False, "add_generation_prompt": asks, **(options or {})}
    try:
        try:
            return str(tokenizer.apply_chat_template(turns, **given))
        except TypeError:
            if (written := _with_written_arguments(turns)) == turns:
                raise
            return str(tokenizer.apply_chat_template(written, **given))
    except Exception as error:  # templates are programs, and raise whatever they like
        says = first_line(error)
        message = f"expected messages that the chat template takes, but it says: {says};"
        raise BadInputError(f"{message} {_way_on(turns)}") from error


def _way_on(turns: list[dict[str, Any]]) -> str:
    """Return what to do about messages that a template refuses."""
    roles = [str(turn.get("role")) for turn in turns]
    if any(role in ("system", "developer") for role in roles):
        return "write the system message into the user's, or use data.format: plain"
    if any(one == other for one, other in pairwise(roles)):
        return "join messages of one role that follow each other, or leave these rows out"
    return f"change or leave out rows with these roles ({', '.join(dict.fromkeys(roles))})"


def _with_written_arguments(turns: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return messages whose calls have their arguments as JSON text."""

    def written(call: dict[str, Any]) -> dict[str, Any]:
        text = json.dumps(call["function"]["arguments"], ensure_ascii=False)
        return {**call, "function": {**call["function"], "arguments": text}}

    return [
        {**turn, "tool_calls": [written(call) for call in turn["tool_calls"]]}
        if "tool_calls" in turn
        else turn
        for turn in turns
    ]


@lru_cache(maxsize=8)
def _parsed(template: str) -> jinja2.nodes.Template:
    environment = jinja2.Environment(extensions=["jinja2.ext.loopcontrols"])
    # A tag of transformers' own, which marks what an assistant wrote.
    bare = re.sub(r"\{%-?\s*(end)?generation\s*-?%\}", "", template)
    try:
        return environment.parse(bare)
    except TemplateError as error:
        line = getattr(error, "lineno", None)
        where = f" in line {line}" if line else ""
        message = f"expected a chat template in Jinja, but{where}: {first_line(error)}"
        raise BadInputError(message) from error


def _head(template: str, values: Mapping[str, Any], date: str) -> str:
    """Return the start of a template that sets its arguments and its date."""
    parts = []
    if patterns := _date_formats(template):
        day = datetime.datetime.fromisoformat(date)
        formats = {pattern: day.strftime(pattern) for pattern in sorted(patterns)}
        parts.append(
            f"{{%- macro {_CLOCK}(format) %}}{{{{- {_literal(formats)}[format] }}}}"
            "{%- endmacro %}"
        )
    for name in _variables(template) & set(values):
        text = _literal(values[name])
        parts.append(f"{{%- if {name} is not defined %}}{{%- set {name} = {text} %}}{{%- endif %}}")
    # A block's end would take a first line break of the template with it; this does not.
    return "".join([*sorted(parts), "{{ '' }}"]) if parts else ""


def _date_formats(template: str) -> set[str]:
    formats = set()
    for call in _parsed(template).find_all(jinja2.nodes.Call):
        if isinstance(call.node, jinja2.nodes.Name) and call.node.name == _CLOCK:
            given = [*call.args, *(keyword.value for keyword in call.kwargs)]
            if len(given) != 1 or not isinstance(given[0], jinja2.nodes.Const):
                raise BadInputError(
                    "expected a chat template whose dates have a fixed format, but it computes the"
                    f" format that it gives {_CLOCK}, so its date cannot be fixed"
                )
            formats.add(str(given[0].value))
    return formats


def _literal(value: Any) -> str:
    """Return a JSON value as Jinja writes it."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
        return f'"{escaped}"'
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_literal, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{_literal(k)}: {_literal(v)}' for k, v in value.items())}}}"
    return repr(value)
