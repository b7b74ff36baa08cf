"""What is known of teacher and student as a pair: their tokens, and whether one can teach."""

from __future__ import annotations

from collections.abc import Iterator

from sweeper.analysis.findings import Finding
from sweeper.analysis.teacher_gap import is_better
from sweeper.records import DataCheck, TokenizerSummary
from sweeper.records.study_record import TeacherGap
from sweeper.reporting.text import formatting
from sweeper.reporting.text.wording import teacher_gap_sentence

TEACHER_RATIO = (2.0, 4.0)
"""Range of the teacher's size, as a multiple of the student's, that is often advised."""


def pair_findings(seen: DataCheck) -> list[Finding]:
    """Vocabulary, template and end tokens, as far as they could be read."""
    if seen.tokenizer is None:
        return []
    return list(_tokenizer(seen.tokenizer))


def size_finding(teacher: int, student: int) -> Finding:
    """How large the teacher is against the student.

    Args:
        teacher: Its parameters.
        student: The same, without an adapter.
    """
    low, high = TEACHER_RATIO
    ratio = teacher / student
    detail = (
        f"{ratio:.2g} times the student's: {formatting.count(teacher)} against"
        f" {formatting.count(student)} parameters"
    )
    if low <= ratio <= high:
        return Finding(state="ok", what="teacher's size", detail=detail)
    advice = f"A teacher {low:g} to {high:g} times as large as the student is said to be best: "
    if ratio < low:
        advice += "a smaller one may know little more."
    else:
        advice += "what a larger one does may be beyond the student, and costs more."
    return Finding(state="warning", what="teacher's size", detail=detail, advice=advice)


def teacher_gap_finding(lead: TeacherGap) -> Finding:
    """Whether the teacher is measurably better than the starting student on the selection suite.

    A teacher that is not is no error: the suite may show little of what it knows, and that nothing
    can be gained from it may be what a study is to show.
    """
    return Finding(
        state="ok" if is_better(lead) else "warning",
        what="teacher's lead",
        detail=teacher_gap_sentence(lead),
        advice=""
        if is_better(lead)
        else "Take another teacher, or a suite that shows what it does better.",
    )


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
