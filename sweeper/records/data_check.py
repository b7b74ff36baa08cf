"""What the data step sees of data, tokenizers and suites."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from sweeper.records.base import Failure, Record
from sweeper.records.model_shapes import ModelShape


class Lengths(Record):
    """How long some texts are, in tokens of the student's."""

    count: int
    percentiles: Annotated[tuple[int, ...], Field(min_length=101, max_length=101)]
    """From the 0th, which is the shortest, to the 100th, the longest."""

    @property
    def longest(self) -> int:
        """The most tokens that one of them has."""
        return self.percentiles[-1]

    def longer_than(self, limit: int) -> float:
        """The share of them that has more than ``limit`` tokens, in whole hundredths."""
        return sum(length > limit for length in self.percentiles[1:]) / 100


class TokenLengths(Record):
    """How long the training data are before anything is cut, and what ``max_length`` does."""

    max_length: int
    prompts: Lengths
    references: Lengths | None
    """None where there are none."""
    sequences: Lengths
    """Prompts with their references."""
    dropped: int
    """Prompts that leave no room for an answer."""
    cut: int
    """References that do not fit whole."""


class ScoredTask(Record):
    """What a task of a suite has a model read, as far as that decides the memory it takes."""

    task: str
    texts: int
    """How many there are."""
    tokens: int
    """Of the longest with its answer, at most as many as a model reads at once; about."""
    likelihoods: bool
    """Whether it is asked how likely texts are."""


class DataSummary(Record):
    """What the data step found."""

    rows: int
    """Rows read."""
    used: int
    """Rows that fit into ``max_length`` and are trained on."""
    fingerprint: str
    """SHA-256 of the prompts and completions."""
    source: str
    local: bool = False
    """Whether the source is a file or ships with the package, rather than on a hub."""
    prompt_tokens: float
    """Mean length of the prompts."""
    completion_tokens: float
    """Mean length of the references, 0 without any."""
    chat: bool
    """Whether prompts go through a chat template."""
    scored: tuple[ScoredTask, ...] = ()
    """The tasks of the suites; none in old records."""
    scored_tokens: int | None = None
    """In older records: of the longest document of the suites with its answer."""
    scored_likelihoods: bool = False
    """In older records: whether a task of the suites measures how likely a text is."""
    selection_documents: int | None = None
    """Of the selection suite; None in old records."""
    test_documents: int | None = None
    """Of the test suite; None without one."""
    lengths: TokenLengths | None = None
    """None in old records."""
    notes: tuple[str, ...] = ()
    """What a user should know: rows dropped, prompts repeated, …"""


class RowsSummary(Record):
    """The training data as rows, before any tokenizer."""

    rows: int
    source: str
    columns: tuple[str, ...]
    """What prompts and references are read from: two columns, one, or that of the messages."""
    references: int
    """Rows with a reference answer."""
    repeated: int
    """Prompts that stand there more than once."""


class TokenizerSummary(Record):
    """How texts become tokens."""

    tokens: int
    """Of the vocabulary that teacher and student share."""
    logits: int
    """Of either model, as they are compared."""
    chat: bool
    """Whether prompts go through a chat template."""
    template_note: str | None
    """How the teacher's template differs."""
    ends: tuple[str, ...]
    """The tokens that end an answer."""
    unended: int | None = None
    """References after which there is none of them; None where that is not known."""


class DataCheck(Record):
    """What the data step saw, part by part: what is wrong with one part hides no other.

    A part is None where it is wrong, or needs what is.
    """

    rows: RowsSummary | None = None
    tokenizer: TokenizerSummary | None = None
    data: DataSummary | None = None
    selection_documents: int | None = None
    """That the score is made of."""
    test_documents: int | None = None
    """The same of the test suite."""
    test_scored: int | None = None
    """Of the test suite, with those of tasks of weight 0; None in old records."""
    overlap_free: bool = False
    """Whether it is known that no prompt is in two places."""
    overlong: tuple[str, ...] = ()
    """Texts that are longer than a model was made for, in words."""
    shapes: tuple[ModelShape, ...] = ()
    """Of the models that were asked for."""
    problems: tuple[Failure, ...] = ()
    """Everything that keeps the study from running."""
