"""Scores of an exported student next to those of its training, and to those on record."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from sweeper.foundation.errors import SweeperError
from sweeper.records import Outcome, Scores
from sweeper.records.layout import JobPaths
from sweeper.study.final_scores import read_documents

_ROUNDING = 0.01
"""Share of a score that rounding may change even where documents do not differ."""


@dataclass(frozen=True)
class Scored:
    """A job that scored a student."""

    outcome: Outcome
    documents: dict[tuple[str, int, str], float]
    """Scores of the documents; empty if their file is gone."""

    @classmethod
    def read(cls, outcome: Outcome, files: JobPaths) -> Self:
        """Read the scores of the documents of a job that has ended."""
        rows = read_documents(files.documents) if files.documents.is_file() else []
        return cls(outcome, {row.key: row.value for row in rows})

    @property
    def scores(self) -> Scores:
        """Scores on the selection suite."""
        assert self.outcome.scores is not None, "a job that scored its student has scores"
        return self.outcome.scores


def check_scores(trained: Scores, written: Scores) -> None:
    """Check that what was written has the trained student's score, but for rounding.

    Rounding may change a few documents: less than a standard error.

    Raises:
        SweeperError: It does not.
    """
    allowed = max(trained.stderr, written.stderr, _ROUNDING * abs(trained.score))
    if not abs(written.score - trained.score) <= allowed:
        raise SweeperError(
            f"The student scored {trained.score:.4g} on {trained.suite} when it was trained, but"
            f" {written.score:.4g} when it was loaded from its folder. Nothing was written."
        )


def compared(recorded: Scored, trained: Scored, written: Scored, *, library: str) -> str:
    """Return in words what was verified: documents, the recorded score, the written one."""
    now, before = written.scores, recorded.scores
    dtype = f" in {now.dtype}" if now.dtype else ""
    text = (
        "Trained again from its recorded settings, written, and loaded from its folder by"
        f" {library}{dtype}: {now.score:.4g} on {now.suite}"
    )
    if now.engine != before.engine:
        again = trained.scores.score
        repeated = (
            "exactly that" if _differences(recorded, trained) == [] else f"{again:.4g} this time"
        )
        return (
            f"{text}. The study's scores are computed by {before.engine}, and do not compare with"
            f" that: {before.score:.4g} was recorded, and the training reached {repeated}."
        )
    count, different = len(written.documents), _differences(recorded, written)
    if now.score == before.score and different == []:
        return f"{text}, exactly as recorded, on each of {count} documents."
    text += f", where {before.score:.4g} was recorded"
    if different is None:
        text += "; the scores of its documents are not on record"
    elif different:
        text += f"; {len(different)} of {count} documents differ, by at most {max(different):.2g}"
    text += "."
    if trained.scores.score == before.score and _differences(recorded, trained) == []:
        return f"{text} The training repeated exactly."
    text += f" The training reached {trained.scores.score:.4g} this time."
    old, new = recorded.outcome.versions, trained.outcome.versions
    changed = sorted(name for name, version in new.items() if old.get(name, version) != version)
    return f"{text} Versions have changed: {', '.join(changed)}." if changed else text


def _differences(one: Scored, other: Scored) -> list[float] | None:
    """Return by how much documents' scores differ, where they do; None if that is not known."""
    if not one.documents or one.documents.keys() != other.documents.keys():
        return None
    pairs = ((score, other.documents[key]) for key, score in one.documents.items())
    return [abs(a - b) for a, b in pairs if a != b]
