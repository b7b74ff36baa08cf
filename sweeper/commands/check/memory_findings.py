"""Whether a study's trainings fit into the memory of their devices, and what to change if not."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from sweeper.analysis.findings import Finding
from sweeper.commands.check.memory_forecast import (
    GIB,
    DeviceKind,
    Peak,
    Scoring,
    Sizes,
    moments,
    worst,
)
from sweeper.config.study import StudyConfig
from sweeper.execution.device_sharing import DeviceMemory
from sweeper.records import DataSummary, ModelShape, ShapeRequest
from sweeper.records.remedies import REMEDIES, Change, Setup, smaller_teacher
from sweeper.reporting.text.formatting import count, listed
from sweeper.study import retries
from sweeper.study.extreme_settings import extreme_settings, requests

ROOM_TO_LEAVE = 0.9
"""The share of a device's memory up to which a training fits for sure."""
CERTAIN = 1.2
"""The share of all of it from which on it does not: forecasts are within 20 % of the measured."""

Shapes = Callable[[ShapeRequest], ModelShape]
"""Looks up what was asked for with ``wanted``."""


@dataclass(frozen=True)
class Forecast:
    """What a training takes.

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
    config: StudyConfig, data: DataSummary, shapes: Shapes, rooms: Sequence[DeviceMemory]
) -> list[Finding]:
    """A row for each kind of device: what the training takes there that needs most.

    It is an error only where an arm cannot be trained at all: a trial that runs out of memory is
    tried again with half the rows, and if it fails, it is one point of a search.

    Args:
        config: The study.
        data: What its data step found.
        shapes: Gives the shapes of what ``wanted`` names.
        rooms: What a trial has on each kind of device.
    """
    if not rooms:
        return []
    unforeseen = dict.fromkeys(
        shape.unforeseen
        for arm in config.arms
        for setup in extreme_settings(config, arm)
        for shape in _loaded(setup, config, shapes)
        if shape is not None and shape.unforeseen
    )
    found = []
    if (least := impossible(config, data, shapes, rooms)) is not None:
        found = [_finding(least, room, smallest=True) for room in rooms]
    else:
        for room in rooms:
            most = largest(config, data, shapes, room.kind)
            found += [] if most is None else [_finding(most, room)]
    if unforeseen:
        reasons = "; ".join(map(str, unforeseen))
        advice = "sweeper check --probe measures what such trainings take."
        detail = f"not known of some trainings: {reasons}"
        found.append(Finding(state="warning", what="memory", detail=detail, advice=advice))
    return found


def largest(
    config: StudyConfig, data: DataSummary, shapes: Shapes, kind: DeviceKind
) -> Forecast | None:
    """The training of the study that takes most on a kind of device; None if none is known."""
    found = (
        forecast
        for arm in config.arms
        for setup in extreme_settings(config, arm)
        if (forecast := _forecast(arm, setup, config, shapes, _sizes(setup, config, data), kind))
    )
    return max(found, key=lambda forecast: forecast.peak.total, default=None)


def impossible(
    config: StudyConfig, data: DataSummary, shapes: Shapes, rooms: Sequence[DeviceMemory]
) -> Forecast | None:
    """The smallest training of an arm none of whose trainings fits anywhere; None if all may.

    Smallest is what its search can reach, and what a trial that ran out of memory is tried again
    with.
    """
    if data.lengths is None:
        return None
    room = max(rooms, key=lambda one: one.whole)
    for arm in config.arms:
        found = [
            _forecast(arm, setup, config, shapes, replace(sizes, scoring=()), room.kind)
            for corner in extreme_settings(config, arm, cheapest=True)
            for sizes in [_sizes(corner, config, data)]
            for setup in _tried(corner)
        ]
        known = [forecast for forecast in found if forecast is not None]
        if len(known) < len(found):
            continue
        least = min(known, key=lambda forecast: forecast.peak.total)
        if least.peak.total > CERTAIN * room.whole:
            return least
    return None


def _tried(setup: Setup) -> Iterator[Setup]:
    """A training, and what a trial that ran out of memory is tried again with."""
    yield setup
    if setup.settings.per_device_train_batch_size % 2 == 0:
        yield replace(setup, settings=retries.smaller(setup.settings))


def _loaded(
    setup: Setup, config: StudyConfig, shapes: Shapes
) -> tuple[ModelShape, ModelShape | None]:
    """What one process of a training has of the student, and of the teacher if it loads one."""
    ours, theirs = requests(setup)
    student, teacher = shapes(ours), None if theirs is None else shapes(theirs)
    if teacher is not None and config.compute.shard_teacher:
        part = teacher.linear_parameters // config.compute.devices_per_trial
        rest = teacher.parameters - teacher.linear_parameters
        update = {"parameters": rest + part, "linear_parameters": part}
        teacher = teacher.model_copy(update=update)
    return student, teacher


def _forecast(
    arm: str, setup: Setup, config: StudyConfig, shapes: Shapes, sizes: Sizes, kind: DeviceKind
) -> Forecast | None:
    """What the training takes; None if that does not follow from its models' shapes."""
    student, teacher = _loaded(setup, config, shapes)
    if student.unforeseen or (teacher is not None and teacher.unforeseen):
        return None
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
    tasks = tuple(
        Scoring(min(config.evaluation.batch_size, task.texts), task.tokens, task.likelihoods)
        for task in data.scored
    )
    return Sizes(prompt, min(answer, limit - 1), min(text, limit), tasks)


def _finding(forecast: Forecast, room: DeviceMemory, *, smallest: bool = False) -> Finding:
    parts = ", ".join(
        f"{part} {_gib(size)}"
        for part, size in sorted(forecast.peak.parts.items(), key=lambda item: -item[1])
        if size >= 0.005 * forecast.peak.total
    )
    training = "even the smallest training" if smallest else "a training"
    detail = (
        f"{training} of {forecast.arm} takes about {_of(forecast.peak, room)} GiB of {room.name}"
        f" ({forecast.peak.moment}: {parts})"
    )
    if _fits(forecast.peak, room):
        return Finding(state="ok", what="memory", detail=detail)
    return Finding(
        state="error" if smallest else "warning",
        what="memory",
        detail=detail,
        advice=remedy(forecast, room),
    )


def remedy(forecast: Forecast, room: DeviceMemory) -> str:
    """What to change so that the training fits: the first of the remedies that is enough.

    If none is, they are combined: each on top of those before it. What scoring takes is another
    matter: there are fewer documents to be scored at a time first.
    """
    if forecast.peak.moment == "scoring" and (fewer := _fewer_documents(forecast, room)):
        words, forecast = fewer
        if _fits(forecast.peak, room):
            return f"{words} needs {_of(forecast.peak, room)} GiB."
        return f"{words}, and then {remedy(forecast, room)}"
    for one in REMEDIES:
        for change in one(forecast.setup):
            found = _changed(forecast, change.setup, room.kind)
            if _fits(found, room):
                return f"{_words(forecast, change)} needs {_of(found, room)} GiB."
    together: list[str] = []
    setup = forecast.setup
    found = forecast.peak
    for one in REMEDIES:
        # Which smaller teacher there is, nobody knows here; what it would bring, the row said.
        changes = [] if one is smaller_teacher else list(one(setup))
        for number, change in enumerate(changes, 1):
            found = _changed(forecast, change.setup, room.kind)
            fits = _fits(found, room)
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


def _fewer_documents(forecast: Forecast, room: DeviceMemory) -> tuple[str, Forecast] | None:
    """Half as many documents at a time, and so on, until scoring fits; None if one does not."""
    tasks = forecast.sizes.scoring
    documents = max(task.documents for task in tasks)
    while documents > 1:
        documents //= 2
        fewer = tuple(replace(task, documents=min(task.documents, documents)) for task in tasks)
        sizes = replace(forecast.sizes, scoring=fewer)
        found = moments(forecast.setup, forecast.student, forecast.teacher, sizes, room.kind)
        if _fits(worst([one for one in found if one.moment == "scoring"]), room):
            words = f"evaluation.batch_size: {documents}"
            return words, replace(forecast, sizes=sizes, peak=worst(found))
    return None


def _changed(forecast: Forecast, setup: Setup, kind: DeviceKind) -> Peak:
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


def _fits(found: Peak, room: DeviceMemory) -> bool:
    return found.total <= ROOM_TO_LEAVE * room.bytes


def _of(found: Peak, room: DeviceMemory) -> str:
    return f"{_gib(found.total)} of {_gib(room.bytes)}"


def _gib(size: float) -> str:
    return f"{size / GIB:.0f}" if size >= 10 * GIB else f"{size / GIB:.2g}"
