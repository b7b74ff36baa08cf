"""Whether a study's trainings fit into the memory of their devices, and what to change if not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from sweeper.analysis.findings import Finding
from sweeper.config.study import StudyConfig
from sweeper.corners import corners, requests
from sweeper.execution.devices import Room
from sweeper.preflight.peak import GIB, Kind, Peak, Scoring, Sizes, moments, worst
from sweeper.records import DataSummary, ModelShape, ShapeRequest
from sweeper.remedies import REMEDIES, Change, Setup, smaller_teacher
from sweeper.reporting.formatting import count, listed

ROOM_TO_LEAVE = 0.9
"""The share of a device's memory up to which a training fits for sure."""
CERTAIN = 1.2
"""The share from which on it does not: forecasts are within 20 % of what is measured."""

Shapes = Callable[[ShapeRequest], ModelShape]
"""Looks up what was asked for with ``wanted``."""


@dataclass(frozen=True)
class Forecast:
    """What the training takes that needs most.

    Attributes:
        arm: Its arm.
        setup: The training.
        student: The student's shape.
        teacher: The teacher's, if it is loaded.
        sizes: Of its sequences.
        peak: What it takes.
    """

    arm: str
    setup: Setup
    student: ModelShape
    teacher: ModelShape | None
    sizes: Sizes
    peak: Peak


def memory_findings(
    config: StudyConfig, data: DataSummary, shapes: Shapes, rooms: Sequence[Room]
) -> list[Finding]:
    """A row for each kind of device: what the training takes there that needs most.

    Args:
        config: The study.
        data: What its data step found.
        shapes: Gives the shapes of what ``wanted`` names.
        rooms: What a trial has on each kind of device.
    """
    return [_finding(largest(config, data, shapes, room.kind), room) for room in rooms]


def largest(config: StudyConfig, data: DataSummary, shapes: Shapes, kind: Kind) -> Forecast:
    """The training of the study that takes most on a kind of device."""
    found = (
        _forecast(arm, setup, shapes, _sizes(setup, config, data), kind)
        for arm in config.arms
        for setup in corners(config, arm)
    )
    return max(found, key=lambda forecast: forecast.peak.total)


def _forecast(arm: str, setup: Setup, shapes: Shapes, sizes: Sizes, kind: Kind) -> Forecast:
    ours, theirs = requests(setup)
    student, teacher = shapes(ours), None if theirs is None else shapes(theirs)
    found = worst(moments(setup, student, teacher, sizes, kind))
    return Forecast(arm, setup, student, teacher, sizes, found)


def _sizes(setup: Setup, config: StudyConfig, data: DataSummary) -> Sizes:
    """Of the training's sequences; what is not known is as long as it may be."""
    settings, lengths = setup.settings, data.lengths
    limit = settings.max_length
    prompt, answer, text = limit - 1, limit - 1, limit
    if lengths is not None:
        prompt = min(lengths.prompts.longest, limit - 1)
        # What was left out was not read to its end; a longer limit takes it in.
        if not (lengths.dropped and limit > lengths.max_length):
            answer = lengths.references.longest if lengths.references else 0
            text = lengths.sequences.longest
    if setup.method == "seqkd" or settings.seq_kd:
        answer = config.teacher_outputs.max_new_tokens
        text = prompt + answer
    scoring = None
    if data.scored_tokens is not None:
        documents = config.evaluation.batch_size
        scoring = Scoring(documents, data.scored_tokens, data.scored_likelihoods)
    return Sizes(prompt, min(answer, limit - 1), min(text, limit), scoring)


def _finding(forecast: Forecast, room: Room) -> Finding:
    share = forecast.peak.total / room.bytes
    parts = ", ".join(
        f"{part} {_gib(size)}"
        for part, size in sorted(forecast.peak.parts.items(), key=lambda item: -item[1])
        if size >= 0.005 * forecast.peak.total
    )
    detail = (
        f"a training of {forecast.arm} takes about {_of(forecast.peak, room)} GiB of {room.name}"
        f" ({forecast.peak.moment}: {parts})"
    )
    if share <= ROOM_TO_LEAVE:
        return Finding(state="ok", what="memory", detail=detail)
    return Finding(
        state="error" if share > CERTAIN else "warning",
        what="memory",
        detail=detail,
        advice=remedy(forecast, room),
    )


def remedy(forecast: Forecast, room: Room) -> str:
    """What to change so that the training fits: the first of the remedies that is enough.

    If none is, they are combined: each on top of those before it. What scoring takes is another
    matter: there are fewer documents to be scored at a time first.
    """
    if forecast.peak.moment == "scoring" and (fewer := _fewer_documents(forecast, room)):
        words, forecast = fewer
        if forecast.peak.total <= ROOM_TO_LEAVE * room.bytes:
            return f"{words} needs {_of(forecast.peak, room)} GiB."
        return f"{words}, and then {remedy(forecast, room)}"
    for one in REMEDIES:
        for change in one(forecast.setup):
            found = _changed(forecast, change.setup, room.kind)
            if found.total <= ROOM_TO_LEAVE * room.bytes:
                return f"{_words(forecast, change)} needs {_of(found, room)} GiB."
    together: list[str] = []
    setup = forecast.setup
    found = forecast.peak
    for one in REMEDIES:
        # Which smaller teacher there is, nobody knows here; what it would bring, the row said.
        changes = [] if one is smaller_teacher else list(one(setup))
        for number, change in enumerate(changes, 1):
            found = _changed(forecast, change.setup, room.kind)
            fits = found.total <= ROOM_TO_LEAVE * room.bytes
            if fits or number == len(changes):
                together.append(change.words)
                setup = change.setup
            if fits:
                return f"{listed(together)} together need {_of(found, room)} GiB."
    if not together:
        return "Take smaller models, or a device with more memory."
    offline = " Offline, sft and seqkd train without the teacher." if forecast.teacher else ""
    return (
        f"Even {listed(together)} together need {_of(found, room)} GiB: take smaller models, or a"
        f" device with more memory.{offline}"
    )


def _fewer_documents(forecast: Forecast, room: Room) -> tuple[str, Forecast] | None:
    """Half as many documents at a time, and so on, until scoring fits; None if one does not."""
    scoring = forecast.sizes.scoring
    while scoring is not None and scoring.documents > 1:
        scoring = replace(scoring, documents=scoring.documents // 2)
        sizes = replace(forecast.sizes, scoring=scoring)
        found = moments(forecast.setup, forecast.student, forecast.teacher, sizes, room.kind)
        [scored] = (one for one in found if one.moment == "scoring")
        if scored.total <= ROOM_TO_LEAVE * room.bytes:
            words = f"evaluation.batch_size: {scoring.documents}"
            return words, replace(forecast, sizes=sizes, peak=worst(found))
    return None


def _changed(forecast: Forecast, setup: Setup, kind: Kind) -> Peak:
    """The peak of a training that was changed by remedies."""
    student, teacher = forecast.student, forecast.teacher
    if setup.student.lora is not None and not student.adapted:
        added = setup.student.lora.r * student.adapter_parameters
        student = student.model_copy(
            update={
                "adapted": True,
                "parameters": student.parameters + added,
                "trainable_parameters": added,
                "largest_trainable": added,
            }
        )
    if teacher is not None and setup.teacher is not None:
        counts = ("parameters", "embedding_parameters", "head_parameters", "linear_parameters")
        share = setup.teacher_share
        smaller = {name: round(getattr(teacher, name) * share) for name in counts}
        kept = {"quantization": setup.teacher.quantization}
        teacher = teacher.model_copy(update={**smaller, **kept})
    return worst(moments(setup, student, teacher, forecast.sizes, kind))


def _words(forecast: Forecast, change: Change) -> str:
    share = change.setup.teacher_share
    if forecast.teacher is None or share == 1:
        return change.words
    return f"{change.words} of {count(round(forecast.teacher.parameters * share))} parameters"


def _of(found: Peak, room: Room) -> str:
    return f"{_gib(found.total)} of {_gib(room.bytes)}"


def _gib(size: float) -> str:
    return f"{size / GIB:.0f}" if size >= 10 * GIB else f"{size / GIB:.2g}"
