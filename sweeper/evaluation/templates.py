"""Prompts, targets and choices of a document, as a task file's columns and templates say.

lm-eval evaluates rendered text that looks like Python (``[1, 2, 3]`` becomes a list), and takes a
word that is no column for a constant. Here text stays text: only an expression whose value is a
list or an index gives one, and what cannot be meant is refused.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

from jinja2 import (
    BaseLoader,
    Environment,
    StrictUndefined,
    Template,
    TemplateError,
    TemplateSyntaxError,
    Undefined,
    meta,
    nodes,
)
from jinja2.nativetypes import NativeCodeGenerator
from lm_eval.utils import env

from sweeper.evaluation.task_yaml import place_of, told
from sweeper.foundation.data_folders import first_line
from sweeper.foundation.errors import BadInputError

Kind = Literal["text", "target", "choices"]
_SYNTAX = re.compile(r"\{\{|\{%|\{#")
_NO_LITERAL = (ValueError, SyntaxError, TypeError, MemoryError, RecursionError)
_WORD = re.compile(r"[^\W\d]\w*(?:[.\-]\w+)*")


class _Generator(NativeCodeGenerator):
    """Keeps a constant that is all of a template as it is."""

    def _output_const_repr(self, group: Iterable[Any]) -> str:
        parts = list(group)
        return repr(parts[0] if len(parts) == 1 else "".join(map(str, parts)))


def _whole(parts: Iterable[Any]) -> Any:
    """Return the value of a template that is one expression; else the text of all parts."""
    values = list(parts)
    return values[0] if len(values) == 1 else "".join(map(str, values))


class _Environment(Environment):
    """lm-eval's environment, whose templates return values."""

    code_generator_class = _Generator
    concat = staticmethod(_whole)


_values = _Environment(loader=BaseLoader(), undefined=StrictUndefined, keep_trailing_newline=True)
_values.filters = env.filters


@lru_cache(maxsize=1024)
def _compiled(text: str) -> Template:
    return _values.from_string(text)


def is_template(text: str) -> bool:
    """Return whether a text has expressions, statements or comments of a template."""
    return _SYNTAX.search(text) is not None


def value_of(text: str, document: Mapping[str, Any], *, whole: bool = True) -> Any:
    """Return a column, or the value of a template; text unless it is one expression.

    Args:
        text: Name of a column, or a template.
        document: Values of the columns.
        whole: True to refuse a text with a value that is null, which would read ``None`` there.

    Raises:
        BadInputError: The template is not valid, or cannot be rendered with the document.
    """
    return document[text] if text in document else _rendered(text, document, whole=whole)


def _rendered(text: str, document: Mapping[str, Any], *, whole: bool = True) -> Any:
    try:
        template = _compiled(text)
        parts = list(template.root_render_func(template.new_context(dict(document))))
        value = _whole(parts)
        # An undefined name has no value until it is used.
        value = str(value) if isinstance(value, StrictUndefined) else value
    except Exception as error:  # whatever an expression raises
        raise BadInputError(_reason(text, document, error)) from error
    if whole and len(parts) > 1 and any(part is None for part in parts):
        missing = [name for name in document if document[name] is None]
        raise BadInputError(f"a value of {short(text)} is null (null here: {', '.join(missing)})")
    return value


def check_names(text: str, columns: Iterable[str]) -> None:
    """Check that a template is valid, and that its names are columns.

    Names that it asks about (``is defined``, ``default``) need not be.

    Raises:
        BadInputError: It is not; lists the columns.
    """
    known = list(columns)
    if text in known:
        return
    try:
        tree = _values.parse(text)
        names = meta.find_undeclared_variables(tree)
    except TemplateError as error:
        raise BadInputError(_reason(text, known, error)) from error
    asked: set[str] = set()
    for node in tree.find_all((nodes.Test, nodes.Filter)):
        inner = node.node
        if node.name in ("defined", "undefined", "default", "d") and isinstance(inner, nodes.Name):
            asked.add(inner.name)
    missing = sorted(names - asked - set(known) - set(_values.globals))
    if missing:
        raise BadInputError(f"no column {missing[0]!r} for {short(text)}; {listed(known)}")


def names_of(text: str) -> set[str]:
    """Return the names that a template takes from the document."""
    return set(meta.find_undeclared_variables(_values.parse(text)))


def _reason(text: str, columns: Iterable[str], error: Exception) -> str:
    if isinstance(error, TemplateSyntaxError):
        reason = f"not a valid template (line {error.lineno}): {first_line(error)}"
        return f"{reason}, in {short(text)}"
    return f"{short(text)} cannot be rendered: {first_line(error)}; {listed(columns)}"


def listed(columns: Iterable[str]) -> str:
    """Return a list of columns in words."""
    return f"the columns are {', '.join(map(str, columns))}"


def short(value: object) -> str:
    """Return a value as it is quoted in messages."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


@dataclass(frozen=True)
class Field:
    """What a task makes of a document: a callable in place of lm-eval's text."""

    key: str
    """Key of the task file."""
    kind: Kind
    given: str | Callable[..., Any]
    """Column, template, or function of the task file."""
    choices: Field | tuple[str, ...] | None = None
    """The task's choices, if it has any: a target may be an index of them."""
    prompt: Field | int | None = None
    """The task's prompt: if it is an index, choices are prompts, and a target is text."""
    scored: bool = True
    """False if the task computes its results itself, so that its target decides nothing."""
    literal: bool = False
    """True if a word that is no column may be the text itself."""
    own: bool = True
    """False for a task of lm-eval's, whose documents are not checked."""

    def __call__(self, document: Mapping[str, Any]) -> Any:
        """Return the text, the target or the choices of a document.

        Raises:
            BadInputError: The document has none that can be meant; names key and columns.
        """
        try:
            value = self._value(document)
            if not self.own:
                return deepcopy(value) if isinstance(value, list) else str(value)
            if self.kind == "choices":
                return self._choices(value, document)
            if self.kind == "target":
                return self._target(value, document)
            return self._text(value)
        except BadInputError as error:
            # What a target is compared with has a key of its own.
            named = str(error).startswith("doc_to_")
            raise BadInputError(str(error) if named else f"{self.key}: {error}") from error

    def _value(self, document: Mapping[str, Any]) -> Any:
        if isinstance(self.given, str):
            if self.own:
                self._check_word(document)
            return value_of(self.given, document, whole=self.own)
        try:
            return self.given(document)
        except (BadInputError, MemoryError):
            raise
        except Exception as error:  # whatever a function of the task's own raises
            reason = told(error, place_of(self.given))
            raise BadInputError(f"{reason}; {listed(document)}") from error

    def _check_word(self, document: Mapping[str, Any]) -> None:
        """Refuse a word that is no column, which lm-eval would take for the text itself."""
        given = str(self.given)
        if self.literal or given in document or not _WORD.fullmatch(given):
            return
        if self.kind == "target" and self.choices is not None:
            return  # may be one of the choices
        hint = '; write "" for none' if self.kind != "choices" else ""
        raise BadInputError(f"no column {given!r}, and no template; {listed(document)}{hint}")

    def _text(self, value: Any) -> Any:
        if self.choices is not None and isinstance(value, int) and not isinstance(value, bool):
            return value  # lm-eval's index of a prompt among several
        return _plain(value)

    def _target(self, value: Any, document: Mapping[str, Any]) -> Any:
        if self.choices is not None:
            prompt = self.prompt(document) if callable(self.prompt) else self.prompt
            if not isinstance(prompt, int):
                choices = self.choices(document) if callable(self.choices) else self.choices
                return self._index(value, list(choices), column=self.given in document)
        if isinstance(value, list) and value:
            return [_plain(item) for item in value]
        if not self.scored and (value is None or isinstance(value, dict | list)):
            return str(value)
        return _plain(value)

    def _index(self, value: Any, choices: Sequence[str], *, column: bool) -> Any:
        """Return an index of the choices, several, or one of their texts, as lm-eval takes it."""
        index = value
        if isinstance(value, bool):
            index = int(value) if column else str(value)
        elif isinstance(value, str) and value.isascii() and value.isdigit() and not column:
            # A column's text is a choice itself; digits of a template are an index.
            index = int(value) if isinstance(self.given, str) else value
            if value in choices and choices.index(value) != index:
                raise BadInputError(
                    f"{value} is an index, and the text of another one of {short(choices)}; write"
                    " the column's name alone for the text of a choice, {{column|int}} for an index"
                )
        elif not isinstance(value, str | int | list):
            raise BadInputError(f"expected an index or one of the choices, found {short(value)}")
        for one in index if isinstance(index, list) else [index]:
            if isinstance(one, int) and not 0 <= one < len(choices):
                raise BadInputError(wrong_choice(choices, one))
        return deepcopy(index)

    def _choices(self, value: Any, document: Mapping[str, Any]) -> list[str]:
        if isinstance(self.given, str) and isinstance(value, str):
            if self.given in document:
                raise BadInputError(
                    f"expected a list, found the text {short(value)}; if it is written as a list,"
                    f' write "{{{{{self.given}}}}}"'
                )
            value = self._evaluated(value, document)
        if not isinstance(value, list | tuple) or not value:
            raise BadInputError(f"expected a list of choices, found {short(value)}")
        return check_choices([_plain(item) for item in value])

    def _evaluated(self, rendered: str, document: Mapping[str, Any]) -> Any:
        """Return the list that a template is written as, rendered item by item."""
        if (items := written_list(str(self.given))) is not None:
            return [_rendered(item, document) for item in items]
        try:
            return ast.literal_eval(rendered.strip())
        except _NO_LITERAL:
            raise BadInputError(
                f"expected a list of choices, found the text {short(rendered)}"
            ) from None


@lru_cache(maxsize=1024)
def written_list(text: str) -> tuple[str, ...] | None:
    """Return the texts of a list that a template is written as; None if it is no such list."""
    try:
        items = ast.literal_eval(text.strip())
    except _NO_LITERAL:
        return None
    texts = isinstance(items, list) and all(isinstance(item, str) for item in items)
    return tuple(items) if texts else None


def check_choices(choices: list[str]) -> list[str]:
    """Return choices that can be told apart by their likelihood.

    Raises:
        BadInputError: There are fewer than two, or one is empty.
    """
    if len(choices) < 2 or "" in choices:
        raise BadInputError(f"expected two choices or more, none of them empty: {short(choices)}")
    return choices


def wrong_choice(choices: Sequence[str], value: object) -> str:
    """Return the message about a target that is none of the choices."""
    return (
        f"expected one of the choices {short(choices)}, or its index from 0, found {short(value)}"
    )


def _plain(value: Any) -> str:
    """Return a value as text.

    Raises:
        BadInputError: It is missing, or not one text, number or truth value.
    """
    if isinstance(value, Undefined):
        raise BadInputError(f"expected text: {value._undefined_message}")
    if value is None:
        raise BadInputError("expected text, found null: the document has none")
    if isinstance(value, list | dict | bytes):
        raise BadInputError(f"expected text, found {short(value)}")
    return str(value)
