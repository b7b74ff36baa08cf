"""Calls of tools, tools and arguments of the template, as rows write them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from sweeper.config.data import template_kwargs_problem
from sweeper.foundation.errors import BadInputError

Message = dict[str, Any]
"""A turn as chat templates read it: ``role``, ``content`` and what else there is."""
_ARGUMENTS = ("arguments", "parameters", "args", "input")
"""Keys of a call that may hold its arguments."""
_OF_CALL = ("id", "index")
"""Keys that stay next to the function of a call that is written flat."""


def read_call(call: Any, place: str) -> Message:
    """Return a call of a tool in the form of chat templates, its arguments a mapping."""
    if isinstance(call, dict) and "function" not in call and "name" in call:
        outer = {key: call[key] for key in _OF_CALL if key in call}
        inner = {k: v for k, v in call.items() if k not in (*_OF_CALL, "type")}
        call = {**outer, "type": "function", "function": inner}
    function: Any = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise BadInputError(
            "expected tool_calls with a function that has a name and arguments in"
            f" {place}, found {shown(call)}"
        )
    function = {key: value for key, value in function.items() if value is not None}
    named = [key for key in _ARGUMENTS if key in function]
    if len(named) > 1 or (not named and len(function) > 1):
        raise BadInputError(
            f"expected a call of a tool with one of {', '.join(_ARGUMENTS)} in {place}, found"
            f" {shown(function)}"
        )
    function = {"arguments" if key in named else key: value for key, value in function.items()}
    given = function.get("arguments") or {}
    return {**call, "function": {**function, "arguments": parsed(given, dict, place)}}


def read_options(given: Any, place: str) -> Mapping[str, Any]:
    """Return a row's own arguments of the chat template."""
    options: Mapping[str, Any] = parsed(given or {}, dict, f"chat_template_kwargs of {place}")
    for name in options:
        if problem := template_kwargs_problem(name):
            raise BadInputError(f"{problem}, in chat_template_kwargs of {place}")
    return options


def read_tools(given: Any, place: str) -> list[Message] | None:
    """Return the JSON schemas of a row's functions; None if it has none."""
    if not given:
        return None
    found = []
    for tool in parsed(given, list, place):
        if isinstance(tool, dict) and "function" not in tool and "name" in tool:
            tool = {"type": "function", "function": tool}
        if not isinstance(tool, dict) or not isinstance(tool.get("function"), dict):
            raise BadInputError(
                f"expected tools as JSON schemas of functions in {place}, found {shown(tool)}"
            )
        found.append(tool)
    return found or None


def parsed(value: Any, kind: type, place: str) -> Any:
    """Return a value that may be written as JSON.

    Raises:
        BadInputError: It is of another kind.
    """
    found = value
    if isinstance(value, str):
        try:
            found = json.loads(value)
        except (ValueError, RecursionError):
            found = None
    if not isinstance(found, kind) or found is None:
        wanted = "a list" if kind is list else "a mapping"
        raise BadInputError(
            f"expected {wanted}, or {wanted} as JSON, in {place}, found {shown(value)}"
        )
    return found


def shown(value: object) -> str:
    """Return a value for a message, cut at 80 characters."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
