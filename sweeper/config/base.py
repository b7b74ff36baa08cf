"""Base of all configuration models."""

from __future__ import annotations

import json
import re
import reprlib
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
)
from pydantic_core import ErrorDetails, InitErrorDetails, PydanticCustomError

from sweeper.config.names import NAME_PATTERN
from sweeper.foundation.secrets import redact, redact_credentials

Scalar = bool | int | float | str | None
"""A value that a search can sample and a database can hold."""

Name = Annotated[str, StringConstraints(pattern=NAME_PATTERN)]
PositiveInt = Annotated[int, Field(ge=1, lt=2**31)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Gibibytes = Annotated[float, Field(ge=0, le=2**30, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Dtype = Literal["auto", "float32", "bfloat16", "float16"]
ScoringDtype = Literal["float32", "bfloat16", "float16"]


def _must_be_json(value: Any) -> Any:
    try:
        same = json.loads(json.dumps(value, allow_nan=False)) == value
    except (TypeError, ValueError, RecursionError):
        same = False
    if not same:  # a key that is no text would come back as text
        message = (
            "expected only text, numbers, true, false, null, lists and mappings with text as keys"
        )
        raise PydanticCustomError("not_json", "{message}", {"message": message})
    return value


Json = Annotated[Any, AfterValidator(_must_be_json)]
"""A value that is passed on to a library, and that a record can hold."""
JsonMapping = Annotated[dict[str, Any], AfterValidator(_must_be_json)]
"""Arguments that are passed on to a library."""

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def _parse_duration(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?([smhd])", value)
    if found is None:
        message = "expected seconds, or text such as 90s, 30m, 12h or 2d"
        raise PydanticCustomError("duration", "{message}", {"message": message})
    return float(found[1]) * _UNITS[found[2]]


Duration = Annotated[PositiveFloat, BeforeValidator(_parse_duration, float | str)]
"""Seconds; written as a number of them, or with a unit: ``90s``, ``30m``, ``12h``, ``2d``."""


class Strict(BaseModel):
    """A frozen model that refuses unknown keys and does not convert between types."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True, allow_inf_nan=False
    )


def dotted(values: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the values of nested mappings with their dotted names."""
    for name, value in values.items():
        key = f"{before}{name}"
        if isinstance(value, Mapping) and value:
            yield from dotted(value, f"{key}.")
        else:
            yield key, value


KeyPath = tuple[str | int, ...]
"""Where a key is, from the outermost inwards; numbers count in lists."""

Refusal = tuple[KeyPath, str]
"""What a validator refuses: the key, and a message. ``Problem`` is this with its file and line."""


class Problems:
    """Collects errors inside a validator, each at its own key, to raise them together."""

    def __init__(self) -> None:
        self._errors: list[InitErrorDetails] = []

    def add(self, location: KeyPath, message: str) -> None:
        """Note one error at ``location``, relative to the model being validated."""
        # The message is passed as a value, because braces in it would be read as a template.
        error = PydanticCustomError("sweeper", "{message}", {"message": message})
        self._errors.append(InitErrorDetails(type=error, loc=location, input=None))

    def raise_if_any(self) -> None:
        """Raise what was collected, as one ``ValidationError``."""
        if self._errors:
            raise ValidationError.from_exception_data("configuration", self._errors)


_EXPECTED = {
    "bool_type": "true or false",
    "dict_type": "a mapping",
    "float_type": "a number",
    "int_from_float": "a whole number",
    "int_type": "a whole number",
    "model_attributes_type": "a mapping",
    "model_type": "a mapping",
    "string_too_short": "some text",
    "string_type": "a string",
    "too_short": "at least one entry",
    "tuple_type": "a list",
}


class _Reprs(reprlib.Repr):
    """Hides the secrets of a text before the text is cut."""

    def repr_str(self, x: str, level: int) -> str:
        return super().repr_str(redact_credentials(x), level)


_reprs = _Reprs()
_reprs.maxstring, _reprs.maxother = 200, 80
_reprs.maxlevel, _reprs.maxlist, _reprs.maxdict = 2, 6, 4


def expectation(details: ErrorDetails) -> str:
    """Return what pydantic expected, in the words of a YAML file: ``a whole number``."""
    if known := _EXPECTED.get(details["type"]):
        return known
    message = details["msg"].removeprefix("Value error, ")
    message = re.sub(r"^(Input|String) should ((be|match) )?", r"\3 ", message).strip()
    message = message.removeprefix("be ").removeprefix("expected ")
    if message.startswith(("greater", "less")):
        return f"a number {message}"
    if message.startswith("match "):
        return f"text that {message.replace('match pattern', 'matches')}"
    return message


def short(value: Any) -> str:
    """Return a value as messages show it, however large or deep it is, without its secrets."""
    return redact(_reprs.repr(value))
