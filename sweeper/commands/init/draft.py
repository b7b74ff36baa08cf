"""The request to ``sweeper init``, and the study that it writes."""

from __future__ import annotations

import os
import shutil
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sweeper.config.placeholders import FILL_IN
from sweeper.config.yaml_text import commented, yaml_text
from sweeper.foundation.errors import ConfigError, Problem

Values = dict[str, Any]


@dataclass(frozen=True)
class Request:
    """Options of ``sweeper init``, without a recipe."""

    output: Path
    """File of the new study."""
    teacher: str | None = None
    student: str | None = None
    data: str | None = None
    selection: Path | None = None
    """Suite file of the user's own."""
    test: Path | None = None


@dataclass
class Draft:
    """A study that is not written yet."""

    values: Values
    comments: dict[tuple[str, ...], str] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    """Texts of further files, by path in a folder of the study's name."""
    fill_in: list[str] = field(default_factory=list)
    """Keys that the user has to complete, in words."""
    notes: list[Problem] = field(default_factory=list)
    """Keys of a recipe that were not taken over."""
    rows: int | None = None
    """Rows to train on, if they can be counted."""
    max_new_tokens: int = 256
    """Limit of answers; the default is for those whose lengths are not known."""
    references: bool = True
    """True if the data have reference answers."""


def write_draft(draft: Draft, output: Path, origin: str) -> list[Path]:
    """Write the study and its further files, all or none; return their paths.

    Raises:
        ConfigError: A file exists, or cannot be written.
    """
    folder = output.parent / output.stem
    for path in (output, folder) if draft.files else (output,):
        if path.exists() or path.is_symlink():
            message = f"expected a new file, but {path} exists: remove it, or choose another name"
            raise ConfigError([Problem(source="--output", message=message)])
    temporary = output.parent / f".{output.name}.{uuid.uuid4().hex}"
    try:
        temporary.mkdir(parents=True)
        (temporary / output.name).write_text(study_text(draft, output, origin), encoding="utf-8")
        for name, text in draft.files.items():
            path = temporary / output.stem / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        if draft.files:
            os.replace(temporary / output.stem, folder)
        try:
            os.replace(temporary / output.name, output)
        except BaseException:
            if draft.files:
                shutil.rmtree(folder, ignore_errors=True)
            raise
    except OSError as error:
        message = f"cannot be written: {error.strerror}"
        raise ConfigError([Problem(source=str(output), message=message)]) from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return [output, *(folder / name for name in draft.files)]


def study_text(draft: Draft, output: Path, origin: str) -> str:
    """Return the text of the study file, with comments."""
    head = f"{origin}\nCheck it with: sweeper check {output}; run it with: sweeper run {output}"
    if draft.fill_in:
        head += f" (once what is marked {FILL_IN} is completed)"
    name = draft.values["study"]
    head += (
        f"\nStart small: sweeper run {output} --set study={name}-small --set trials=1 --set"
        " training.max_steps=20, or with smaller models of the same family."
    )
    if draft.notes:
        notes = "\n".join(f"  {note.path}: {note.message}" for note in draft.notes)
        head += f"\nOf the recipe:\n{notes}"
    return commented(head) + yaml_text(draft.values, draft.comments)
