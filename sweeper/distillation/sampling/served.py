"""Students through the vLLM server of their device: it gets their weights, then it is asked."""

from __future__ import annotations

import base64
import pickle
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import reduce_tensor

from sweeper.config.base import ScoringDtype
from sweeper.distillation.models.plain_weights import stored_weights, write_weights
from sweeper.distillation.sampling.rollouts import Rollout
from sweeper.foundation.errors import BadInputError, DivergedError, NoAnswerError
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
        self._resources, self._waiting = resources, waiting
        self._give = _Giver(resources, dtype)

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
        with self._waiting("student"), engine.held():
            for _ in range(_TRIES):
                try:
                    answers = engine.sample(
                        self._give.to(engine, model),
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
        raise NoAnswerError(
            f"The server that has the student's weights was started again {_TRIES} times while it"
            " was asked."
        )


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
    with engine.held():
        yield served.model_copy(update={"weights": _Giver(resources, dtype).to(engine, model)})


def _engine(resources: Resources) -> StudentEngine:
    served = resources.served_student
    if served is None:
        raise NoAnswerError(
            f"There is no vLLM server on {resources.device} that could take this student's weights."
        )
    return StudentEngine(served, lambda line: print(line, flush=True))


class _Giver:
    """Gives a student's weights to the server of its device: in the GPU's memory, or by files."""

    def __init__(self, resources: Resources, dtype: ScoringDtype | None) -> None:
        self._directory = Path(resources.directory)
        self._dtype = getattr(torch, dtype or "float32")
        self._shares = resources.device.startswith("cuda")

    def to(self, engine: StudentEngine, model: Any) -> str:
        """Give the weights; return a name for them.

        Raises:
            DivergedError: They are not finite; a server would answer nonsense.
            NoAnswerError: The server does not answer.
            OtherWeightsError: It was started again while it took them.
        """
        finite = [part.isfinite().all() for part in model.parameters() if part.requires_grad]
        if finite and not bool(torch.stack(finite).all()):
            raise DivergedError("Weights are not finite while sampling: training diverged.")
        if self._shares:
            shared = stored_weights(model, self._dtype, str(next(model.parameters()).device))
            try:
                return engine.share(handles(shared))
            except (BadInputError, NoAnswerError, RuntimeError) as error:
                self._shares = False
                reason = next(iter(str(error).splitlines()), type(error).__name__)
                print(f"Weights go to the server by files from now on: {reason}", flush=True)
        # Abandoned folders of this name are removed with the training's own.
        with TemporaryDirectory(dir=self._directory, prefix=".trainer.weights.") as directory:
            folder = Path(directory).resolve() / "student"
            write_weights(model, folder, self._dtype)
            return engine.load(folder)


def handles(weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return where weights lie in a GPU's memory, as vLLM's weight transfer ``ipc`` reads it."""
    uuid = str(torch.cuda.get_device_properties(next(iter(weights.values())).device).uuid)
    found = [{uuid: reduce_tensor(part)[1]} for part in weights.values()]  # type: ignore[no-untyped-call]
    return {
        "names": list(weights),
        "dtype_names": [str(value.dtype).removeprefix("torch.") for value in weights.values()],
        "shapes": [list(value.shape) for value in weights.values()],
        "ipc_handles_pickled": base64.b64encode(pickle.dumps(found)).decode("ascii"),
    }
