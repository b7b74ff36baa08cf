"""What is known of teacher and student as a pair: their tokens, and whether one can teach."""

from __future__ import annotations

from collections.abc import Iterator

from sweeper.analysis.findings import Finding
from sweeper.records import Examination, TokenizerSummary


def pair_findings(seen: Examination) -> list[Finding]:
    """Vocabulary, template and end tokens, as far as they could be read."""
    if seen.tokenizer is None:
        return []
    return list(_tokenizer(seen.tokenizer))


def _tokenizer(found: TokenizerSummary) -> Iterator[Finding]:
    yield Finding(
        state="ok",
        what="vocabulary",
        detail=f"teacher and student share {found.tokens:,} tokens; {found.logits:,} logits each",
    )
    ours = "the student's, as the teacher's" if found.chat else "none: prompt, answer and end token"
    if found.template_note:
        yield Finding(
            state="warning",
            what="chat template",
            detail=found.template_note,
            advice="A teacher that was never shown such a text may teach worse: compare its score"
            " on the selection suite with what you know of it.",
        )
    else:
        yield Finding(state="ok", what="chat template", detail=ours)
    ends = " or ".join(found.ends)
    if found.unended:
        yield Finding(
            state="warning",
            what="end tokens",
            detail=f"{found.unended:,} references do not end with {ends}, so that a student does"
            " not learn to end its answers",
            advice="Write data: {format: plain}, or use a model whose template ends its turns.",
        )
    else:
        yield Finding(state="ok", what="end tokens", detail=f"an answer ends with {ends}")
