"""Students through the vLLM server of their device: it gets their weights, then it is asked."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import torch

from sweeper.config.base import ScoringDtype
from sweeper.distillation.models.plain_weights import write_weights
from sweeper.distillation.sampling.rollouts import Rollout
from sweeper.foundation.errors import DivergedError, NoAnswerError
from sweeper.records import Resources, ServedModel
from sweeper.records.seeds import served_rollout_seed
from sweeper.serving.client import OtherWeightsError
from sweeper.serving.student_engine import StudentEngine

_TRIES = 5
"""Times that weights are given to the server: it may be started again a few times."""


class ServedEngine:
    """The engine ``vllm``: samples from a student through the server of its device.

    Args:
        resources: Place of the job, with the server.
        dtype: Precision that the server computes in.
        waiting: Where the seconds count that the server takes.
    """

    def __init__(
        self,
        resources: Resources,
        dtype: ScoringDtype | None,
        waiting: Callable[[str], AbstractContextManager[None]],
    ) -> None:
        self._resources, self._dtype, self._waiting = resources, dtype, waiting

    def __call__(
        self,
        model: Any,
        prompts: Sequence[Sequence[int]],
        *,
        temperature: float,
        max_new_tokens: int,
        end_ids: Sequence[int],
        pad_id: int,
        seed: int,
        batch_size: int,
        numbers: Sequence[int] | None = None,
        report: Callable[[int], None] = lambda done: None,
    ) -> list[Rollout]:
        """Sample as ``rollouts.generate`` does; the server decides how many at a time.

        Raises:
            DivergedError: The student's weights are not finite.
            NoAnswerError: The server does not answer.
        """
        if not prompts:
            return []
        numbers = range(len(prompts)) if numbers is None else numbers
        head = model.get_output_embeddings()
        engine = _engine(self._resources)
        with self._waiting("student"), engine.held(), _written(model, self._place()) as folder:
            for _ in range(_TRIES):
                try:
                    answers = engine.sample(
                        engine.load(folder),
                        prompts,
                        temperature=temperature,
                        max_new_tokens=max_new_tokens,
                        end_ids=end_ids,
                        seeds=[served_rollout_seed(seed, number) for number in numbers],
                        vocabulary=head.weight.shape[0],
                        report=report,
                    )
                except OtherWeightsError:
                    continue
                return [Rollout(one.tokens, one.finished, one.log_probs) for one in answers]
        raise _restarted(_TRIES)

    def _place(self) -> tuple[Path, ScoringDtype | None]:
        return Path(self._resources.directory), self._dtype


@contextmanager
def loaded(resources: Resources, model: Any, dtype: ScoringDtype | None) -> Iterator[ServedModel]:
    """Have the server of a job's device serve ``model``; no other job gives it weights meanwhile.

    Requests give ``weights`` of what is returned, so that a server that was started again, with its
    first weights, answers none of them.

    Raises:
        DivergedError: The weights are not finite.
        NoAnswerError: The server does not answer.
        OtherWeightsError: It was started again while it took them.
    """
    engine = _engine(resources)
    served = resources.served_student
    assert served is not None
    with engine.held(), _written(model, (Path(resources.directory), dtype)) as folder:
        yield served.model_copy(update={"weights": engine.load(folder)})


def _engine(resources: Resources) -> StudentEngine:
    served = resources.served_student
    if served is None:
        raise NoAnswerError(
            f"There is no vLLM server on {resources.device} that could take this student's weights."
        )
    return StudentEngine(served, lambda line: print(line, flush=True))


@contextmanager
def _written(model: Any, place: tuple[Path, ScoringDtype | None]) -> Iterator[Path]:
    """Write a student's weights into a folder that is removed again.

    Raises:
        DivergedError: They are not finite; a server would answer nonsense.
    """
    parent, dtype = place
    for name, weights in model.named_parameters():
        if weights.requires_grad and not bool(weights.isfinite().all()):
            raise DivergedError(f"The weights {name} are not finite: training diverged.")
    with tempfile.TemporaryDirectory(dir=parent, prefix=".trainer.weights.") as directory:
        folder = Path(directory).resolve() / "student"
        write_weights(model, folder, getattr(torch, dtype or "float32"))
        yield folder


def _restarted(times: int) -> NoAnswerError:
    return NoAnswerError(
        f"The server that has the student's weights was started again {times} times while it was"
        " asked."
    )
