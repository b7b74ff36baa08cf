"""What all configuration models share."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError

from sweeper.paths import NAME_PATTERN

Scalar = bool | int | float | str | None
"""A value that a search can sample and a database can hold."""

Name = Annotated[str, StringConstraints(pattern=NAME_PATTERN)]
PositiveInt = Annotated[int, Field(ge=1)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, le=1)]


class Strict(BaseModel):
    """A frozen model that refuses unknown keys and does not convert between types."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True, allow_inf_nan=False
    )


class Problems:
    """Collects errors inside a validator, each at its own key, to raise them together."""

    def __init__(self) -> None:
        self._errors: list[InitErrorDetails] = []

    def add(self, location: tuple[str | int, ...], message: str) -> None:
        """Note one error at ``location``, relative to the model being validated."""
        # The message is passed as a value, because braces in it would be read as a template.
        error = PydanticCustomError("sweeper", "{message}", {"message": message})
        self._errors.append(InitErrorDetails(type=error, loc=location, input=None))

    def raise_if_any(self) -> None:
        """Raise what was collected, as one ``ValidationError``."""
        if self._errors:
            raise ValidationError.from_exception_data("configuration", self._errors)
