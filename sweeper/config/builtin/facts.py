"""Short questions that a small chat model answers well, and gets wrong when layers are missing.

Five kinds of question, about words and about countries, each with a reference answer of one
sentence or two whose last word is what was asked for::

    What is the capital of France?           The capital of France is Paris.
    Which form of "go" is right yesterday?   Today they go. Yesterday they went.

A task gives the model the beginning of the answer and compares the next word. This measures
knowledge rather than style. Two more kinds, about countries and about things, are multiple choice.

Training, selection and test have different words of each kind, so a student cannot score well on
test by memorising answers: its knowledge comes from the teacher that it was made from.

``scripts/write_suites.py`` writes the files that the tasks below ``eval_suites/smollm2`` read.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar

SPLITS = {"train": 0.35, "selection": 0.15, "test": 0.5}
"""Each split's share of the words of every kind."""
CHOICES = 4
"""Number of answers to choose from."""
Row = TypeVar("Row", bound=dict[str, Any])


_TABLES: dict[str, dict[str, Any]] = json.loads(
    Path(__file__).with_name("facts.json").read_text(encoding="utf-8")
)
KINDS = _TABLES["kinds"]
"""Kinds of question by name: templates of question and answer, and the words with their targets."""
CONTINENTS: dict[str, list[str]] = _TABLES["continents"]
"""Countries by continent."""
THINGS: dict[str, list[str]] = _TABLES["things"]
"""Things to choose from, by their kind."""
UNCOUNTED = ("drink", "metal", "sport")
"""Kinds whose words take no article."""


def dataset(split: str) -> list[dict[str, str]]:
    """Return questions of all kinds with their answers, in one fixed mixed order.

    Args:
        split: One of ``SPLITS``.

    Raises:
        ValueError: If the split is unknown.
    """
    asked = [
        *((row, row["target"]) for row in questions(split)),
        *((row, row["choices"][row["gold"]]) for row in choices(split)),
    ]
    return _mixed(
        {"question": row["question"], "answer": f"{row['prefix']} {target}."}
        for row, target in asked
    )


def questions(split: str) -> list[dict[str, str]]:
    """Return questions whose answers a model has to complete.

    Returns:
        Rows with the columns ``question``; ``prefix``, the beginning of the answer; ``target``,
        the word that completes it.

    Raises:
        ValueError: If the split is unknown.
    """
    return _mixed(
        {
            "question": kind["question"].format(word),
            "prefix": kind["prefix"].format(word),
            "target": target,
        }
        for name, kind in KINDS.items()
        for word, target in _part(name, list(kind["pairs"].items()), split)
    )


def choices(split: str) -> list[dict[str, Any]]:
    """Return multiple-choice questions.

    Returns:
        Rows with the columns ``question``; ``prefix``, the beginning of every answer; ``choices``,
        its possible ends; ``gold``, the index of the right one.

    Raises:
        ValueError: If the split is unknown.
    """
    countries = [(word, home) for home, words in CONTINENTS.items() for word in words]
    things = [(word, kind) for kind, words in THINGS.items() for word in words]
    rows = []
    for word, home in _part("continent", countries, split):
        question, prefix = f"Where is {word}?", f"{_capital(word)} is a country in"
        rows.append(_choice(question, prefix, home, list(CONTINENTS)))
    for word, kind in _part("thing", things, split):
        article = "" if kind in UNCOUNTED else "an " if word[0] in "aeiou" else "a "
        question, prefix = f"What is {article}{word}?", f"{_capital(article + word)} is a kind of"
        rows.append(_choice(question, prefix, kind, list(THINGS)))
    return _mixed(rows)


def _part(kind: str, items: list[tuple[str, str]], split: str) -> list[tuple[str, str]]:
    """Return the split's share of a kind's items."""
    if split not in SPLITS:
        raise ValueError(f"`split` must be one of {', '.join(SPLITS)}, but got {split!r}.")
    ordered = sorted(items, key=lambda item: _number(f"{kind} {item[0]}"))
    names = list(SPLITS)
    at = names.index(split)
    first, end = (
        round(len(ordered) * sum(SPLITS[name] for name in names[:count])) for count in (at, at + 1)
    )
    return ordered[first:end]


def _choice(question: str, prefix: str, right: str, answers: list[str]) -> dict[str, Any]:
    wrong = sorted((name for name in answers if name != right), key=lambda n: _number(question + n))
    offered = sorted([right, *wrong[: CHOICES - 1]])
    return {
        "question": question,
        "prefix": prefix,
        "choices": offered,
        "gold": offered.index(right),
    }


def _mixed(rows: Iterable[Row]) -> list[Row]:
    return sorted(rows, key=lambda row: _number(row["question"]))


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


def _number(text: str) -> int:
    """Return a number that, unlike ``hash``, is the same in every process and on every machine."""
    return zlib.crc32(text.encode())
