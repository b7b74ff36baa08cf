"""Findings on memory: whether a study's trainings fit on their devices, and what to change."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Literal

from sweeper.analysis.findings import Finding
from sweeper.commands.check.memory_calibration import assumption
from sweeper.commands.check.memory_forecast import moments, worst
from sweeper.commands.check.memory_terms import GIB, DeviceKind, Peak, Scoring, Sizes
from sweeper.config.served_students import samples_rollouts
from sweeper.config.study import StudyConfig
from sweeper.execution.device_sharing import DeviceMemory
from sweeper.records import DataSummary, ModelShape, ShapeRequest
from sweeper.records.remedies import REMEDIES, Change, Setup, smaller_teacher
from sweeper.reporting.text.formatting import count, listed
from sweeper.study import retries
from sweeper.study.extreme_settings import extreme_settings, requests

ROOM_TO_LEAVE = 0.9
"""Share of a device's free memory up to which a training fits for sure."""
CERTAIN = 1.2
"""Share of all its memory above which none fits: on CPUs, forecasts are within 20 % of
measurements."""

Shapes = Callable[[ShapeRequest], ModelShape]
"""Function that looks up the shapes of the models that ``wanted`` names."""


@dataclass(frozen=True)
class StudyTrainings:
    """Everything that decides the memory of a study's trainings."""

    config: StudyConfig
    data: DataSummary
    """Result of the data step."""
    shapes: Shapes

    def extremes(self, *, cheapest: bool = False) -> dict[str, list[Setup]]:
        """Return the trainings of each arm that may take most, or least, memory."""
        arms = self.config.arms
        return {arm: list(extreme_settings(self.config, arm, cheapest=cheapest)) for arm in arms}


@dataclass(frozen=True)
class Forecast:
    """Memory of a training at its peak."""

    arm: str
    setup: Setup
    student: ModelShape
    teacher: ModelShape | None
    """Shape of the teacher, if it is loaded."""
    sizes: Sizes
    peak: Peak


def memory_findings(trainings: StudyTrainings, rooms: Sequence[DeviceMemory]) -> list[Finding]:
    """Report, for each kind of device, the training that takes most memory there.

    It is an error only where an arm cannot be trained at all. A trial that runs out of memory is
    retried with half the rows, and if it fails, it is one point of a search.
    """
    if not rooms:
        return []
    unforeseen = dict.fromkeys(
        shape.unforeseen
        for setup in chain.from_iterable(trainings.extremes().values())
        for shape in _loaded(setup, trainings)
        if shape is not None and shape.unforeseen
    )
    findings = []
    if (least := impossible(trainings, rooms)) is not None:
        findings = [_finding(least, room, smallest=True) for room in rooms]
    else:
        for room in rooms:
            most = largest(trainings, room.kind)
            findings += [] if most is None else [_finding(most, room)]
    if unforeseen:
        reasons = "; ".join(map(str, unforeseen))
        advice = "sweeper check --probe measures what such trainings take."
        detail = f"not known of some trainings: {reasons}"
        findings.append(Finding(state="warning", what="memory", detail=detail, advice=advice))
    return findings


def largest(trainings: StudyTrainings, kind: DeviceKind) -> Forecast | None:
    """Return the training that takes most on a kind of device; None if none can be forecast."""
    forecasts = (
        forecast
        for arm, setups in trainings.extremes().items()
        for setup in setups
        if (forecast := _forecast(arm, setup, trainings, _sizes(setup, trainings), kind))
    )
    return max(forecasts, key=lambda forecast: forecast.peak.total, default=None)


def impossible(trainings: StudyTrainings, rooms: Sequence[DeviceMemory]) -> Forecast | None:
    """Return the smallest training of an arm that fits nowhere; None if every arm may fit.

    The smallest training is one that the search can reach, or the retry of a trial that ran out of
    memory.
    """
    if trainings.data.lengths is None:
        return None
    room = max(rooms, key=lambda room: room.whole)
    for arm, setups in trainings.extremes(cheapest=True).items():
        forecasts = [
            _forecast(arm, setup, trainings, replace(sizes, scoring=()), room.kind)
            for smallest in setups
            for sizes in [_sizes(smallest, trainings)]
            for setup in _tried(smallest)
        ]
        known = [forecast for forecast in forecasts if forecast is not None]
        if len(known) < len(forecasts):
            continue
        least = min(known, key=lambda forecast: forecast.peak.total)
        if least.peak.total > CERTAIN * room.whole:
            return least
    return None


def _tried(setup: Setup) -> Iterator[Setup]:
    """Yield a training, and its retry after it ran out of memory."""
    yield setup
    if setup.settings.per_device_train_batch_size % 2 == 0:
        yield replace(setup, settings=retries.smaller(setup.settings))


def _loaded(setup: Setup, trainings: StudyTrainings) -> tuple[ModelShape, ModelShape | None]:
    """Return what a process has of the student, and of the teacher if it loads one."""
    ours, theirs = requests(setup)
    student = trainings.shapes(ours)
    teacher = None if theirs is None else trainings.shapes(theirs)
    if teacher is not None and trainings.config.compute.shard_teacher:
        part = teacher.linear_parameters // setup.devices
        rest = teacher.parameters - teacher.linear_parameters
        update = {"parameters": rest + part, "linear_parameters": part}
        teacher = teacher.model_copy(update=update)
    return student, teacher


def _forecast(
    arm: str, setup: Setup, trainings: StudyTrainings, sizes: Sizes, kind: DeviceKind
) -> Forecast | None:
    """Forecast a training; return None if its memory does not follow from its models' shapes."""
    student, teacher = _loaded(setup, trainings)
    if student.unforeseen or (teacher is not None and teacher.unforeseen):
        return None
    peak = worst(moments(setup, student, teacher, sizes, kind))
    return Forecast(arm, setup, student, teacher, sizes, peak)


def _sizes(setup: Setup, trainings: StudyTrainings) -> Sizes:
    """Return the lengths of the training's sequences; unknown ones are as long as they may be."""
    data = trainings.data
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
        answer = trainings.config.teacher_outputs.max_new_tokens
        text = prompt + answer
    tasks = tuple(
        Scoring(
            min(trainings.config.evaluation.batch_size, task.texts), task.tokens, task.likelihoods
        )
        for task in data.scored
    )
    config = trainings.config
    scored_bytes = 4 if config.scoring_dtype() == "float32" else 2
    scores, samples = (
        engine == "vllm" for engine in (config.evaluation.engine, config.rollouts.engine)
    )
    return Sizes(
        prompt,
        min(answer, limit - 1),
        min(text, limit),
        () if scores else tasks,
        scored_bytes,
        samples_served=samples,
        gives=scores or (samples and samples_rollouts(config)),
    )


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
    if assumed := assumption(forecast.peak.parts, room.kind):
        detail += f"; {assumed}"
    if _fits(forecast.peak, room):
        return Finding(state="ok", what="memory", detail=detail)
    state: Literal["error", "warning"] = "error" if smallest else "warning"
    advice = _remedy(forecast, room)
    if room.served:
        advice += f" {_LESS_SERVED[room.kind]}"
    return Finding(state=state, what="memory", detail=detail, advice=advice)


_LESS_SERVED = {
    "cuda": "A smaller gpu_memory of a server leaves more to trials.",
    "cpu": "Smaller kv_cache_memory_bytes of a server (its options) leave more to trials.",
    "mps": "",
}


def _remedy(forecast: Forecast, room: DeviceMemory) -> str:
    """Return the first remedy that lets the training fit, in words.

    If none is enough, remedies are combined: each on top of those before it. Where scoring takes
    most, fewer documents at a time come first.
    """
    if forecast.peak.moment == "scoring" and (fewer := _fewer_documents(forecast, room)):
        words, forecast = fewer
        if _fits(forecast.peak, room):
            return f"{words} needs {_of(forecast.peak, room)} GiB."
        return f"{words}, and then {_remedy(forecast, room)}"
    for change in chain.from_iterable(changes_of(forecast.setup) for changes_of in REMEDIES):
        peak = _changed(forecast, change.setup, room.kind)
        if _fits(peak, room):
            return f"{_words(forecast, change)} needs {_of(peak, room)} GiB."
    together: list[str] = []
    setup = forecast.setup
    peak = forecast.peak
    for changes_of in REMEDIES:
        # It is not known here which smaller teachers there are.
        changes = [] if changes_of is smaller_teacher else list(changes_of(setup))
        for number, change in enumerate(changes, 1):
            peak = _changed(forecast, change.setup, room.kind)
            fits = _fits(peak, room)
            if fits or number == len(changes):
                together.append(change.words)
                setup = change.setup
            if fits:
                return f"{listed(together)} together need {_of(peak, room)} GiB."
    if not together:
        return "Take smaller models, or a device with more memory."
    offline = " Offline, sft and seqkd train without the teacher." if forecast.teacher else ""
    return (
        f"Even {listed(together)} together need {_of(peak, room)} GiB: take smaller models, or a"
        f" device with more memory.{offline}"
    )


def _fewer_documents(forecast: Forecast, room: DeviceMemory) -> tuple[str, Forecast] | None:
    """Halve the documents that are scored at a time until scoring fits; None if one does not."""
    tasks = forecast.sizes.scoring
    documents = max(task.documents for task in tasks)
    while documents > 1:
        documents //= 2
        fewer = tuple(replace(task, documents=min(task.documents, documents)) for task in tasks)
        sizes = replace(forecast.sizes, scoring=fewer)
        peaks = moments(forecast.setup, forecast.student, forecast.teacher, sizes, room.kind)
        if _fits(worst([peak for peak in peaks if peak.moment == "scoring"]), room):
            words = f"evaluation.batch_size: {documents}"
            return words, replace(forecast, sizes=sizes, peak=worst(peaks))
    return None


def _changed(forecast: Forecast, setup: Setup, kind: DeviceKind) -> Peak:
    """Return the peak of a training that remedies have changed."""
    student, teacher = forecast.student, forecast.teacher
    if setup.student.lora is not None and not student.adapted:
        added = setup.student.lora.r * student.adapter_parameters
        student = student.model_copy(
            update={
                "adapted": True,
                "trains_head": False,
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


def _fits(peak: Peak, room: DeviceMemory) -> bool:
    return peak.total <= ROOM_TO_LEAVE * room.bytes


def _of(peak: Peak, room: DeviceMemory) -> str:
    return f"{_gib(peak.total)} of {_gib(room.bytes)}"


def _gib(size: float) -> str:
    return f"{size / GIB:.0f}" if size >= 10 * GIB else f"{size / GIB:.2g}"
