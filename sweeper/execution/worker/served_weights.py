"""A student that is scored through the server of its device, which gets its weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sweeper.config.evaluation import EvaluationConfig
from sweeper.distillation.sampling.served import loaded
from sweeper.evaluation.scoring import Evaluation
from sweeper.evaluation.served_model import AnsweringModel
from sweeper.foundation.errors import NoAnswerError
from sweeper.records import Resources
from sweeper.serving.client import OtherWeightsError
from sweeper.serving.student_engine import MOST_AT_A_TIME, reach_student

_TRIES = 5
"""Times that a student is scored, if its server is started again in the middle."""


def with_weights_served(
    resources: Resources,
    model: Any,
    evaluation: EvaluationConfig,
    work: Callable[[AnsweringModel], Evaluation],
) -> Evaluation:
    """Return what ``work`` returns for the student behind the server of its device.

    A server that is started again loses the weights: it gets them again, and the student is scored
    anew, from the first document.

    Raises:
        DivergedError: The weights are not finite.
        NoAnswerError: The server does not answer, or does not stay up.
    """
    bare = model.get_base_model() if hasattr(model, "get_base_model") else model
    at_a_time = min(evaluation.batch_size, MOST_AT_A_TIME)
    for _ in range(_TRIES):
        try:
            with loaded(resources, model, evaluation.dtype) as served:
                reached = reach_student(served, at_a_time)
                return work(AnsweringModel(bare.config, bare.generation_config, reached))
        except OtherWeightsError:
            print("The server was started again; the student is scored anew.", flush=True)
    raise NoAnswerError(
        f"The server that has the student's weights was started again {_TRIES} times while the"
        " student was scored."
    )
