"""Steps that do not need each other run side by side; what they are told stays the same."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from sweeper.config.loading import load_study
from sweeper.config.study import StudyConfig
from sweeper.execution.executor import Finished, Spec
from sweeper.foundation.files import write_text_atomically
from sweeper.records import PreparationSpec, Resources
from sweeper.records.layout import JobPaths
from sweeper.records.outcome_files import read_outcome
from sweeper.study.interrupts import Interrupted
from sweeper.study.preparation_order import before, preparation_order, waves
from tests.support.memory_tracker import MemoryStore, MemoryTracker
from tests.support.writing_executor import WritingExecutor, go_on

SEQKD = {"warm_start": {"method": "seqkd", "max_steps": 1}}
START = {"method": "supervised_kd", "settings": {"teacher.model": "student"}}
OTHER = {"method": "supervised_kd", "settings": {"teacher.dtype": "float32"}}
ARMS: dict[str, Any] = {
    "gkd": {"trials": 1},
    "seqkd": {"trials": 1},
    "placebo": {**START, "trials": 1},
    "other": {**OTHER, "trials": 1},
}
AUTO = {"rollouts": {"engine": "auto"}}
PLAIN = {"data": (), "teacher": ("data",), "student": ("data",)}
VLLM = {"model": "builtin/adder-teacher", "server": {"start": "vllm"}}


@dataclass
class SlotExecutor(WritingExecutor):
    """Runs jobs on devices of their own, and ends a random one of them at a time."""

    slots: int = 3
    seed: int = 0
    die_after: int | None = None
    """Number of ended jobs after which the process is killed."""
    started: list[str] = field(default_factory=list)
    """Steps in the order of their start."""
    beside: dict[str, set[str]] = field(default_factory=dict)
    """Steps that ran when a step started."""
    ended: list[str] = field(default_factory=list)
    most: int = 0
    """Most jobs at a time."""

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)

    def free(self) -> int:
        return self.slots - len(self._running)

    def devices(self) -> tuple[str, ...]:
        return tuple(f"cuda:{index}" for index in range(self.slots))

    def next_resources(self, directory: Path) -> Resources:
        taken = {spec.place.device for spec in self._running}
        device = next((name for name in self.devices() if name not in taken), "cuda:0")
        return Resources(directory=str(directory), device=device, threads=1)

    def submit(self, spec: Spec) -> None:
        if isinstance(spec, PreparationSpec):
            self.beside[spec.step] = {s.step for s in self._running if not hasattr(s, "arm")}
            self.started.append(spec.step)
        assert spec.place.device not in {other.place.device for other in self._running}
        super().submit(spec)
        self.most = max(self.most, len(self._running))

    def wait(self, timeout: float) -> list[Finished]:
        if not self._running:
            return []
        if len(self.ended) == self.die_after:
            raise Interrupted
        spec = self._running.pop(self._random.randrange(len(self._running)))
        files = JobPaths(Path(spec.place.directory))
        write_text_atomically(files.outcome, self.outcome_of(spec).model_dump_json())
        self.ended.append(spec.step if isinstance(spec, PreparationSpec) else "trial")
        return [Finished(spec, read_outcome(files), "")]


def config(write_study: Callable[..., Path], **changes: Any) -> StudyConfig:
    return load_study(write_study(**changes)).config


@pytest.mark.parametrize(
    ("changes", "own_devices", "expected"),
    [
        ({"arms": {"sft": {}}}, True, PLAIN),
        # What nobody trains on is not sampled, and one device gains nothing from a second copy.
        ({"arms": {"gkd": {}}}, False, PLAIN),
        (
            {"arms": {"seqkd": {}}},
            True,
            {"data": (), "answers": ("data",), "teacher": ("data",), "student": ("data",)},
        ),
        (
            {"arms": {"sft": {}}, **SEQKD},
            True,
            {
                "data": (),
                "answers": ("data",),
                "teacher": ("data",),
                "student": ("data", "answers"),
            },
        ),
        (
            {"arms": {"sft": {}}, **SEQKD},
            False,
            {"data": (), "teacher": ("data",), "student": ("data", "teacher")},
        ),
        (
            {"arms": {"sft": {}, "placebo": START, "other": OTHER}},
            False,
            {**PLAIN, "teacher@placebo": ("data", "student"), "teacher@other": ("data",)},
        ),
        (
            {"arms": {"gkd": {}}, **AUTO},
            True,
            {
                "data": (),
                "answers": ("data",),
                "teacher": ("data",),
                "student": ("data",),
                "engines": ("data", "answers", "teacher", "student"),
            },
        ),
        (
            {"arms": {"seqkd": {}}, "teacher": VLLM},
            True,
            {"data": (), "teacher": ("data",), "student": ("teacher",)},
        ),
    ],
)
def test_what_has_to_end_before_what(
    write_study: Callable[..., Path],
    changes: dict[str, Any],
    own_devices: bool,
    expected: dict[str, Any],
) -> None:
    found = preparation_order(
        config(write_study, **changes), students_served=False, own_devices=own_devices
    )
    assert {step: set(needs) for step, needs in found.items()} == {
        step: set(needs) for step, needs in expected.items()
    }
    assert next(iter(found)) == "data"
    # Next to a step that samples its answers the teacher has its score last, and waits for them.
    assert "answers" not in found or [*found][-1] in ("teacher", "engines")


def test_the_weights_of_the_start_are_there_before_servers_have_them(
    write_study: Callable[..., Path],
) -> None:
    study = config(write_study, arms={"gkd": {}, "other": OTHER}, **AUTO)
    order = preparation_order(study, students_served=True, own_devices=True)
    assert waves(order) == [
        *(("data",), ("teacher",), ("start",), ("student",), ("teacher@other",), ("engines",))
    ]


def all_changes() -> Mapping[str, Any]:
    return {"arms": ARMS, "trials": 1, **SEQKD, **AUTO, "evaluation": SELECTION}


SELECTION = {"selection": "selection.yaml"}


@pytest.mark.parametrize("slots", [1, 3, 8])
def test_steps_start_as_soon_as_what_they_need_has_ended(
    write_study: Callable[..., Path], slots: int
) -> None:
    told: dict[str, dict[str, Any]] = {}
    for seed in range(1 if slots == 1 else 2):
        file = write_study(study=f"tiny{seed}", **all_changes())
        executor = SlotExecutor(slots=slots, seed=seed)
        go_on(file, MemoryTracker("tiny", MemoryStore()), executor)
        study = load_study(file).config
        order = preparation_order(study, students_served=False, own_devices=slots > 1)
        assert sorted(executor.started) == sorted(order)
        for step in order:
            ended = executor.ended[: executor.ended.index(step)]
            assert set(before(order, step)) <= set(ended), (step, ended)
            needed = {*before(order, step)}
            assert not executor.beside[step] & needed
        assert executor.beside["engines"] == set() == executor.beside["data"]
        # Of the steps after the data, as many at a time as there are slots.
        assert executor.most == min(slots, 4)
        for step in order:
            files = file.parent / "runs" / f"tiny{seed}" / "preparation" / step / "spec.json"
            spec = json.loads(files.read_text())
            del spec["place"], spec["origin"]["study"]
            assert told.setdefault(step, spec) == spec, "it depends on what ran when"


@pytest.mark.parametrize("count", [1, 3, 5])
def test_a_study_that_was_killed_does_what_is_left(
    write_study: Callable[..., Path], count: int
) -> None:
    file, store = write_study(**all_changes()), MemoryStore()
    order = preparation_order(load_study(file).config, students_served=False, own_devices=True)
    first, second = SlotExecutor(slots=3, seed=count, die_after=count), SlotExecutor(slots=2)
    with pytest.raises(Interrupted):
        go_on(file, MemoryTracker("tiny", store), first)
    go_on(file, MemoryTracker("tiny", store), second)
    # Answers of a teacher that is done are there.
    spared = {"answers"} if "teacher" in first.ended else set()
    assert set(second.started) == order.keys() - set(first.ended) - spared
