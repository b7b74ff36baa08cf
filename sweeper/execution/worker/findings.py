"""What the data step has found so far."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from sweeper.distillation.data.conversations import Example
from sweeper.distillation.data.examples import TokenizedData
from sweeper.distillation.data.training_data import TrainingData
from sweeper.evaluation.tasks import LeafTask
from sweeper.foundation.errors import BadInputError, blaming
from sweeper.records import (
    Failure,
    ModelShape,
    PreparationSpec,
    RowsSummary,
    ScoredTask,
    StudyInputs,
    TokenizerSummary,
)


@dataclass
class Findings:
    """Findings so far; a part is None where it is wrong."""

    spec: PreparationSpec
    problems: list[Failure] = field(default_factory=list)
    examples: tuple[Example, ...] | None = None
    rows: RowsSummary | None = None
    origin: StudyInputs | None = None
    material: TrainingData | None = None
    tokenizer: TokenizerSummary | None = None
    data: TokenizedData | None = None
    selection: list[LeafTask] | None = None
    test: list[LeafTask] | None = None
    shapes: tuple[ModelShape, ...] = ()
    attention: dict[str, str] = field(default_factory=dict)
    """Default attention of teacher and student."""
    overlap_free: bool = False
    scored: list[ScoredTask] = field(default_factory=list)
    left_out: tuple[str, ...] = ()
    """Notes on parts of messages."""
    models: tuple[str, ...] = ()
    """Notes on the files of models."""
    generation: dict[str, str] = field(default_factory=dict)
    """Publishers' generation settings, by role."""
    overlong: list[str] = field(default_factory=list)
    """Notes on texts that are longer than a model was made for."""

    def note(self, text: str | None) -> None:
        """Keep a note on a model, once."""
        if text is not None and text not in self.models:
            self.models += (text,)

    @contextmanager
    def noting(self, *key: str) -> Iterator[None]:
        """Note bad input in the block instead of stopping at it; blames ``key`` by default."""
        try:
            with blaming(*key):
                yield
        except BadInputError as error:
            message = str(error).splitlines()[0]
            self.problems.append(Failure(kind="bad_input", message=message, key=error.key))
