"""The order of a study's steps outside its trials: which ones have to end before which."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from sweeper.config.models import START
from sweeper.config.own_teachers import own_teachers, teacher_uses
from sweeper.config.scoring_engine import teacher_is_scored
from sweeper.config.started_server import StartedServer
from sweeper.config.study import StudyConfig
from sweeper.records.layout import own_teacher_step
from sweeper.study import engines
from sweeper.study.engines import engine_request

Step = str
"""Name of a step, as ``PreparationSpec`` has it."""
Order = Mapping[Step, tuple[Step, ...]]
"""Steps in the order in which they start where only one runs at a time, each with the steps that
have to end before. Steps that do not need each other run side by side."""

TEST_STEPS = ("test_student", "test_teacher")
ANSWERS = "answers"


def preparation_order(
    config: StudyConfig, *, students_served: bool, own_devices: bool = False
) -> dict[Step, tuple[Step, ...]]:
    """Return the steps before the search; first ``data``, which all others need.

    A warm start by ``seqkd`` needs the teacher's answers, and an arm whose teacher is the starting
    student needs that. The test of engines is timed, so nothing runs next to it. Servers are for
    one step after the other: a teacher that sweeper serves has the machine to itself, and the
    weights of the start are written for its servers before it is scored.

    Args:
        config: The study.
        students_served: True if servers hold students' weights.
        own_devices: True if steps that run side by side have a device each. Then the teacher's
            answers are sampled next to its score, by a second copy of it.
    """
    own = dict.fromkeys(own_teacher_steps(config).values())
    if isinstance(config.teacher.server, StartedServer) or students_served:
        start = ("start",) if students_served else ()
        groups: list[tuple[Step, ...]] = [("data",), ("teacher",), start, ("student",), (*own,)]
        order = _one_group_after_another([*groups, (engines.STEP,)])
    else:
        answers = own_devices and _has_answers(config)
        warm = config.warm_start is not None and config.warm_start.method == "seqkd"
        taught = ((ANSWERS if answers else "teacher"),) if warm else ()
        order = {"data": (), ANSWERS: ("data",), "teacher": ("data",), "student": ("data", *taught)}
        values = {own_teacher_step(arm): found for arm, found in own_teachers(config).items()}
        for step in own:
            of_start = values[step].get("model") == START
            order[step] = ("data", "student") if of_start else ("data",)
        if answers:
            # It waits for the answers once it has its score, so that it is to start last.
            order["teacher"] = order.pop("teacher")
        else:
            del order[ANSWERS]
        order[engines.STEP] = tuple(order)
    if engine_request(config) is None:
        del order[engines.STEP]
    return order


def test_order(config: StudyConfig) -> dict[Step, tuple[Step, ...]]:
    """Return the steps after the search: only then is the test suite scored."""
    has_score = teacher_is_scored(config.teacher, config.evaluation)
    return dict.fromkeys(TEST_STEPS if has_score else TEST_STEPS[:1], ())


def own_teacher_steps(config: StudyConfig) -> dict[str, Step]:
    """Return the step that prepares each arm's own teacher; arms with the same one share it."""
    teachers = own_teachers(config)
    first = {name: next(a for a in teachers if teachers[a] == teachers[name]) for name in teachers}
    return {name: own_teacher_step(arm) for name, arm in first.items()}


def before(order: Order, step: Step) -> tuple[Step, ...]:
    """Return the steps of ``order`` that have ended when ``step`` starts, whatever else has."""
    needed: dict[Step, None] = {}
    for need in order[step]:
        if need in order:
            needed |= dict.fromkeys((*before(order, need), need))
    return tuple(needed)


def ready(order: Order, waiting: Collection[Step], done: Collection[Step]) -> list[Step]:
    """Return the ``waiting`` steps that need none but ``done`` ones, or ones of another order."""
    return [
        step
        for step in order
        if step in waiting and all(need in done for need in order[step] if need in order)
    ]


def waves(order: Order) -> list[tuple[Step, ...]]:
    """Return the steps in groups; those of a group need only steps of the groups before."""
    found: list[tuple[Step, ...]] = []
    done: set[Step] = set()
    while wave := ready(order, order.keys() - done, done):
        found.append(tuple(wave))
        done.update(wave)
    return found


def _has_answers(config: StudyConfig) -> bool:
    """Return True if a teacher that is loaded has answers or states that trials share."""
    uses = teacher_uses(config, {})
    return config.teacher.server is None and (uses.answers or bool(uses.reads))


def _one_group_after_another(
    groups: Collection[tuple[Step, ...]],
) -> dict[Step, tuple[Step, ...]]:
    order: dict[Step, tuple[Step, ...]] = {}
    earlier: tuple[Step, ...] = ()
    for group in filter(None, groups):
        order |= dict.fromkeys(group, earlier)
        earlier = group
    return order
