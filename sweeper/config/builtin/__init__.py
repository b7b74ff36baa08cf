"""Models and data that ship with the package, so that a study runs without a network.

Scripts that made them are outside the package, in ``scripts/``.
"""

from __future__ import annotations

from pathlib import Path

MODELS: tuple[str, ...] = ("adder-teacher", "adder-student", "adder-weak-teacher")
"""Names that ``model_directory`` accepts."""

PACKED_MODELS: tuple[str, ...] = ("smollm2-135m-instruct",)
"""Models from the extra ``demo``, which ``distillation.models.smollm2`` unpacks."""

DATASETS: tuple[str, ...] = ("addition", "facts")
"""Names that ``dataset`` accepts."""


def model_directory(name: str) -> Path:
    """Return the folder of a shipped model, in the layout that ``from_pretrained`` reads.

    Raises:
        ValueError: If no shipped model has this name.
    """
    if name not in MODELS:
        raise ValueError(f"`name` must be one of {', '.join(MODELS)}, but got {name!r}.")
    return Path(__file__).resolve().parent / "models" / name


def dataset(name: str, split: str) -> list[dict[str, str]]:
    """Return a split of a shipped data set as rows with string columns.

    Raises:
        ValueError: If the data set or the split is unknown.
    """
    if name not in DATASETS:
        raise ValueError(f"`name` must be one of {', '.join(DATASETS)}, but got {name!r}.")
    # Imported here because a caller that only wants a model needs neither.
    from sweeper.config.builtin import addition, facts

    return facts.dataset(split) if name == "facts" else addition.problems(split)
