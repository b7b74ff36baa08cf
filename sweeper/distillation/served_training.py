"""Trainings whose teacher answers over a server: where their loss gets its judgement."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial

from sweeper.config.settings import MethodSettings
from sweeper.distillation.cost_meter import CostMeter
from sweeper.distillation.data.compatibility import token_ids
from sweeper.distillation.data.examples import TokenizedData
from sweeper.distillation.teacher import stored_judgement
from sweeper.distillation.teacher.served_judge import ServedJudge
from sweeper.distillation.teacher.shared_teacher import SharedTeacher, pays_to_store
from sweeper.distillation.teacher.stored_judgement import StoredJudgement
from sweeper.distillation.trainers import ServedTeacherLoss, tokens_to_report


@contextmanager
def served_teacher_loss(
    teacher: SharedTeacher, data: TokenizedData, settings: MethodSettings, meter: CostMeter
) -> Iterator[ServedTeacherLoss]:
    """Provide the loss of a training on ``data`` for the block.

    Args:
        teacher: The study's teacher, with its server.
        data: Sequences of the training.
        settings: Settings of the training.
        meter: Times the teacher, and waits for its server.
    """
    waiting = partial(meter.waiting, "teacher")
    with meter.timing("teacher"):
        stored = judgement_to_store(teacher, data, settings, waiting=waiting)
    k, place = tokens_to_report(settings), teacher.resources.served_teacher
    with ServedJudge(teacher.config, place, k, token_ids(teacher.inputs.student)) as judge:
        used = partial(meter.waited, "teacher")
        yield ServedTeacherLoss(judge, settings, stored=stored, timing=meter.timing, used=used)


def judgement_to_store(
    teacher: SharedTeacher,
    data: TokenizedData,
    settings: MethodSettings,
    report: Callable[[int, int], None] = lambda done, total: None,
    waiting: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> StoredJudgement | None:
    """Return the teacher's judgement of ``data``, if a few trials like this read it all.

    Args:
        teacher: A served teacher.
        data: Sequences of the training.
        settings: Settings of the training.
        report: Callback for the number of sequences judged and their total.
        waiting: Entered while the server is asked.
    """
    k = tokens_to_report(settings)
    if settings.lmbda == 1 or not k:
        return None
    if not pays_to_store(settings, len(data.sequences), teacher.resources.processes):
        return None
    return stored_judgement.get_or_ask(teacher, data.sequences, k, report, waiting)
