"""Findings of the data step about data, tokenizers and suites."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from sweeper.records.base import Failure, Record
from sweeper.records.model_shapes import ModelShape


class Lengths(Record):
    """Lengths of some texts, in tokens of the student's tokenizer."""

    count: int
    percentiles: Annotated[tuple[int, ...], Field(min_length=101, max_length=101)]
    """Percentiles from the 0th, which is the shortest, to the 100th, the longest."""

    @property
    def longest(self) -> int:
        """Tokens of the longest text."""
        return self.percentiles[-1]

    def longer_than(self, limit: int) -> float:
        """Return the share of the texts with more than ``limit`` tokens, in whole hundredths."""
        return sum(length > limit for length in self.percentiles[1:]) / 100


class TokenLengths(Record):
    """Lengths of the training data before anything is cut, and what ``max_length`` does."""

    max_length: int
    prompts: Lengths
    references: Lengths | None
    """Lengths of the reference answers; None where there are none."""
    sequences: Lengths
    """Prompts with their references."""
    dropped: int
    """Prompts that leave no room for an answer."""
    cut: int
    """References that do not fit whole."""


class ScoredTask(Record):
    """Texts that a task of a suite has a model read, as far as they decide the memory."""

    task: str
    texts: int
    """Number of texts."""
    tokens: int
    """Tokens of the longest text with its answer, at most as many as a model reads at once;
    about."""
    likelihoods: bool
    """True if the task asks how likely texts are."""


class DataSummary(Record):
    """Summary of the data that a study trains on."""

    rows: int
    """Rows read."""
    used: int
    """Rows that fit into ``max_length`` and are trained on."""
    fingerprint: str
    """SHA-256 of the prompts and completions."""
    source: str
    local: bool = False
    """True if the source is a file or ships with the package; False if it is on a hub."""
    prompt_tokens: float
    """Mean length of the prompts."""
    completion_tokens: float
    """Mean length of the references, 0 without any."""
    chat: bool
    """True if prompts go through a chat template."""
    scored: tuple[ScoredTask, ...] = ()
    """The tasks of the suites; none in old records."""
    scored_tokens: int | None = None
    """Tokens of the suites' longest document with its answer; in older records only."""
    scored_likelihoods: bool = False
    """True if a task of the suites measures how likely a text is; in older records only."""
    selection_documents: int | None = None
    """Number of the selection suite's documents; None in old records."""
    test_documents: int | None = None
    """Number of the test suite's documents; None without one."""
    lengths: TokenLengths | None = None
    """Lengths of the training data before anything is cut; None in old records."""
    notes: tuple[str, ...] = ()
    """Notes for the user: rows dropped, prompts repeated, …"""


class RowsSummary(Record):
    """The training data as rows, before any tokenizer."""

    rows: int
    source: str
    columns: tuple[str, ...]
    """Columns of prompts and references: two, one, or that of the messages."""
    unread: tuple[str, ...] = ()
    """Other columns that are not empty."""
    unused: tuple[str, ...] = ()
    """Sentences on those of them that hold text, and on how to use them."""
    files: tuple[str, ...] = ()
    """Files of a folder that the rows are read from."""
    other_files: tuple[str, ...] = ()
    """Files of the folder that hold none of the rows."""
    references: int
    """Rows with a reference answer."""
    repeated: int
    """Prompts that stand there more than once."""


class TokenizerSummary(Record):
    """Summary of how texts become tokens."""

    tokens: int
    """Size of the vocabulary that teacher and student share."""
    logits: int
    """Logits of either model, as they are compared."""
    chat: bool
    """True if prompts go through a chat template."""
    template_note: str | None
    """Difference of the teacher's template from the student's."""
    ends: tuple[str, ...]
    """The tokens that end an answer."""
    unended: int | None = None
    """Number of references that the template ends with no token; they got one. None where that is
    not known."""
    date: str | None = None
    """Day that the template writes for today's; None if it writes none."""


class DataCheck(Record):
    """Findings of the data step, part by part: what is wrong with one part hides no other.

    A part is None where it is wrong, or needs what is.
    """

    rows: RowsSummary | None = None
    tokenizer: TokenizerSummary | None = None
    data: DataSummary | None = None
    selection_documents: int | None = None
    """Number of documents that the selection score is made of."""
    test_documents: int | None = None
    """Number of documents that the test score is made of."""
    test_scored: int | None = None
    """Number of the test suite's documents, those of weight 0 included; None in old records."""
    scored_by: dict[str, tuple[str, ...]] = {}
    """Metric, direction, aggregation and filter of each task that counts, in words, by suite:
    ``selection`` and ``test``."""
    overlap_free: bool = False
    """True if it is certain that no prompt is in two places."""
    left_out: tuple[str, ...] = ()
    """Parts of messages that the chat template leaves out or changes, in words."""
    models: tuple[str, ...] = ()
    """What is in the files of models and not used, in words."""
    generation: dict[str, str] = {}
    """Generation settings that their publishers gave teacher and student, in words."""
    overlong: tuple[str, ...] = ()
    """Texts that are longer than a model was made for, in words."""
    attention: dict[str, str] = {}
    """Attention that teacher and student have by default, where it is known."""
    shapes: tuple[ModelShape, ...] = ()
    """Shapes of the models that were asked for."""
    problems: tuple[Failure, ...] = ()
    """Everything that keeps the study from running."""
