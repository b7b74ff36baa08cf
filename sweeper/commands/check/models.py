"""Findings on the pair of models: tokenizers, sizes, and the teacher's lead over the student."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

from sweeper.analysis.findings import Finding
from sweeper.analysis.pair import PairSummary
from sweeper.analysis.teacher_gap import is_better
from sweeper.config.base import ScoringDtype
from sweeper.config.judgement import Judged
from sweeper.config.models import ModelConfig
from sweeper.config.remote_server import RemoteServer
from sweeper.records import TokenizerSummary
from sweeper.records.study_record import TeacherGap
from sweeper.reporting.text import formatting
from sweeper.reporting.text.pair import basis, pair_rows
from sweeper.reporting.text.teacher_gap import teacher_gap_sentence
from sweeper.reporting.text.terminal_escape import visible

TEACHER_RATIO = (2.0, 4.0)
"""Range of the teacher's size, as a multiple of the student's, that is often advised."""

_BYTES_A_TOKEN = 8
"""``stored_judgement.BYTES_A_TOKEN``."""
_PLAIN = "none: prompt, answer and end token"


def size_finding(teacher: int, student: int) -> Finding:
    """Compare the parameters of the teacher with the student's own, without an adapter."""
    low, high = TEACHER_RATIO
    ratio = teacher / student
    detail = (
        f"{ratio:.2g} times the student's: {formatting.count(teacher)} against"
        f" {formatting.count(student)} parameters"
    )
    if low <= ratio <= high:
        return Finding(state="ok", what="teacher's size", detail=detail)
    advice = f"A common recommendation is a teacher {low:g} to {high:g} times as large: "
    if ratio < low:
        advice += "a smaller one may know little more than the student."
    else:
        advice += "a larger one costs more, and may be beyond the student."
    return Finding(state="warning", what="teacher's size", detail=detail, advice=advice)


def file_findings(notes: Sequence[str], generation: Mapping[str, str]) -> Iterator[Finding]:
    """Yield what the files of models hold that no trial follows.

    Args:
        notes: What is left out, in words.
        generation: Publishers' generation settings of teacher and student, in words.
    """
    for note in notes:
        advice = "Make sure that it is the model that you mean."
        yield Finding(state="warning", what="weights", detail=note, advice=advice)
    for role, settings in generation.items():
        detail = (
            f"the {role}'s own settings ({settings}) are not followed: a task says how its answers"
            " are sampled, and an arm how rollouts are"
        )
        yield Finding(state="ok", what="generation", detail=detail)


def teacher_gap_finding(gap: TeacherGap, arm: str = "") -> Finding:
    """Report whether the teacher, or an ``arm``'s own, is measurably better than the start.

    A teacher that is not better is no error: the suite may show little of what it knows, and a
    study may be made to find that nothing can be gained.
    """
    what, detail = "teacher's lead", teacher_gap_sentence(gap, arm)
    if is_better(gap):
        return Finding(state="ok", what=what, detail=detail)
    advice = "Take another teacher, or a suite that shows what it does better."
    return Finding(state="warning", what=what, detail=detail, advice=advice)


def pair_findings(pairs: Sequence[PairSummary]) -> Iterator[Finding]:
    """Yield what was measured of each teacher with the starting student, and when to worry."""
    for pair in pairs:
        yield Finding(state="ok", what="pair", detail=basis(pair))
        for row in pair_rows(pair):
            advice = f"Worry if {row.worry}. {row.advice}".rstrip()
            detail = f"{row.value}. {row.meaning[0].upper()}{row.meaning[1:]}"
            state: Literal["ok", "warning"] = "warning" if row.advice else "ok"
            yield Finding(state=state, what=row.name, detail=detail, advice=advice)


def server_finding(
    teacher: ModelConfig,
    rows: int | None,
    longest: int | None,
    *,
    scored_in: ScoringDtype | None = None,
) -> Finding | None:
    """Report what a served teacher will be asked; None of one that is loaded.

    ``rows`` are those of the data, if they are known; ``longest`` is the limit of an answer, None
    if no arm trains on answers; ``scored_in`` the precision of its score, None if it has none.
    """
    if (server := teacher.server) is None:
        return None
    if isinstance(server, RemoteServer):
        detail = f"{server.model or teacher.model} answers at {server.url}"
    else:
        detail = f"vLLM, which sweeper starts, serves {teacher.model}; it answers"
    if longest is not None:
        count = "every row of the data" if rows is None else f"{rows:,} rows of the data"
        detail += f" to {count}, in at most {longest:,} tokens each, once"
    if scored_in is not None:
        detail += f". It is scored through its server, in {scored_in}"
        if isinstance(server, RemoteServer):
            detail += f", which is to run with --dtype {scored_in}: that cannot be seen from here"
    else:
        detail += (
            ". It has no score, as suites are scored on models that are loaded: reports are without"
            " the teacher's line and gap closed"
        )
    return Finding(state="ok", what="teacher's server", detail=visible(detail))


def judgement_finding(judged: Judged, positions: float | None, room: float) -> Finding:
    """Report what a served teacher's judgement is read of, and what is stored of it.

    Args:
        judged: What trainings read.
        positions: Tokens of the references; None if they are not known.
        room: GiB that the cache has for it.
    """
    what, k = "teacher's judgement", judged.top_k
    named = "the token that stands there" if not k else f"{k} tokens at most"
    detail = f"{named} at each position, asked for while students train"
    sources = {own for arm in judged.arms for own in arm.sources}
    if not k or not sources:
        return Finding(state="ok", what=what, detail=detail)
    detail += "; that of the data's sequences once, before trials"
    if False not in sources or positions is None:
        return Finding(state="ok", what=what, detail=detail)
    size = positions * k * _BYTES_A_TOKEN / 2**30
    detail += f": about {size:.2g} GiB of the cache for the references"
    if size <= room:
        return Finding(state="ok", what=what, detail=detail)
    detail += f", more than compute.teacher_states_gib ({room:g})"
    advice = "Write a larger one, or a smaller teacher_top_k: else every trial asks for it anew."
    return Finding(state="warning", what=what, detail=detail, advice=advice)


def tokenizer_findings(tokenizer: TokenizerSummary, *, text: bool = False) -> Iterator[Finding]:
    """Yield the findings on vocabulary, chat template and end tokens.

    With ``text`` the teacher is known by the text of its answers only.
    """
    detail = (
        f"teacher and student share {tokenizer.tokens:,} tokens; {tokenizer.logits:,} logits each"
    )
    if text:
        detail = (
            f"the student's own, {tokenizer.tokens:,} tokens: the teacher answers in text, which"
            " seqkd, alone among the methods, can train on across tokenizers"
        )
    yield Finding(state="ok", what="vocabulary", detail=detail)
    ours = "the student's, as the teacher's" if tokenizer.chat else _PLAIN
    if text and tokenizer.chat:
        ours = "the student's; the server renders the teacher's prompts"
    if tokenizer.template_note:
        yield Finding(
            state="warning",
            what="chat template",
            detail=tokenizer.template_note,
            advice="A teacher may be worse on texts that differ from its own template: compare its"
            " score on the selection suite with what you know of it.",
        )
    else:
        yield Finding(state="ok", what="chat template", detail=ours)
    ends = " or ".join(tokenizer.ends)
    detail = f"an answer ends with {ends}"
    if tokenizer.unended:
        detail += (
            f"; the template ends {tokenizer.unended:,} references with no token, and they got one"
        )
    yield Finding(state="ok", what="end tokens", detail=detail)
    if tokenizer.date is not None:
        detail = f"the template writes the day, {tokenizer.date} on every day (data.date)"
        yield Finding(state="ok", what="date", detail=detail)
