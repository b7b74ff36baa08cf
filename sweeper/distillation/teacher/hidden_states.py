"""The teacher's last hidden states on fixed sequences, computed once.

References and stored teacher answers are read again in every epoch, by every trial, arm and study.
The teacher's logits need only its last hidden states at the positions that count: 2 to 7 KB a
token, memory-mapped in the cache, in the teacher's own dtype.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sweeper.distillation.data.batches import PromptCollator, counted_positions
from sweeper.distillation.data.examples import TokenSequence
from sweeper.distillation.models.lm_head import LMHead, computing_dtype
from sweeper.distillation.models.loading import computing_threads
from sweeper.distillation.models.tf32 import products as tf32_products
from sweeper.distillation.models.wide_products import WideProducts, multiplies_slowly
from sweeper.distillation.teacher.head_alone import HeadTraits
from sweeper.distillation.teacher.shared_teacher import SharedTeacher
from sweeper.foundation.cache import Cache, hash_text
from sweeper.foundation.disk import reserve

KIND = "teacher_states"
_STATES, _ABOUT = "states.bin", "about.json"
_BATCH_TOKENS = 4096
"""Tokens that the teacher reads at a time, in sequences of similar length."""


@dataclass(frozen=True)
class TeacherStates:
    """Last hidden states of fixed sequences, at the positions that predict their answers."""

    states: Tensor
    """Memory-mapped states (positions × width), one sequence after the other."""
    starts: tuple[int, ...]
    """First position of each sequence, followed by the number of positions."""
    head: HeadTraits | None = None
    """Traits by which the teacher's head can be loaded alone; None if it cannot be."""

    def of(self, indices: Sequence[int]) -> Tensor:
        """Return the states (positions × width) of some sequences, one after the other."""
        return torch.cat([self.states[self.starts[i] : self.starts[i + 1]] for i in indices])


def get_or_compute(
    teacher: SharedTeacher,
    sequences: Sequence[TokenSequence],
    report: Callable[[int, int], None] = lambda done, total: None,
    *,
    autocast: torch.dtype | None = None,
    tf32: bool = False,
    compute: bool = True,
) -> TeacherStates | None:
    """Return the teacher's states on ``sequences``, all with an answer.

    Args:
        teacher: Teacher, which is loaded if they have to be computed.
        sequences: Sequences that it reads.
        report: Callback for the number of sequences read and their total.
        autocast: Precision that the teacher reads rollouts in, so that it reads everything in one.
        tf32: True if it reads rollouts with TF32 products, on CUDA.
        compute: False to return only states that are stored already.

    Returns:
        None if they exceed the study's ``compute.teacher_states_gib``, or if the teacher's logits
        are not its head's.
    """
    inputs = teacher.inputs
    limit = round(inputs.teacher_states_gib * 2**30)
    if not limit:
        return None
    starts = (0, *accumulate(sequence.trained for sequence in sequences))
    lines = (
        f"{list(s.prompt)}{list(s.completion or ())}{s.earlier if s.earlier else ''}"
        for s in sequences
    )
    determinants = {**teacher.determinants(), "sequences": hash_text("\n".join(lines))}
    if autocast is not None:
        determinants["autocast"] = str(autocast).removeprefix("torch.")
    if tf32:
        determinants["tf32"] = "true"

    def build(directory: Path) -> None:
        if not compute:
            raise _NotStoredError
        model = teacher.load()
        kind = next(model.parameters()).device.type
        lower = torch.autocast(kind, autocast, enabled=autocast is not None)
        products = WideProducts().of(model) if multiplies_slowly(kind, autocast) else nullcontext()
        exact = tf32_products(model, device=kind, tf32=tf32)
        with computing_threads(inputs.cache_threads), lower, products, exact:
            about = _compute(model, sequences, starts, directory / _STATES, limit, report)
        (directory / _ABOUT).write_text(json.dumps(about), encoding="utf-8")

    for _ in range(3):
        try:
            directory = Cache(Path(inputs.cache)).get_or_compute(KIND, determinants, build, limit)
            return _read(directory, starts)
        except _NotStoredError:
            return None
        except FileNotFoundError:
            continue  # another process removed the entry between the two lines
    return None


class _NotStoredError(Exception):
    """The states are not to be stored; nothing is kept, so that a later call may compute them."""


def _read(directory: Path, starts: tuple[int, ...]) -> TeacherStates | None:
    """Map the states of a cache entry; None if the teacher's logits are not its head's."""
    about = json.loads((directory / _ABOUT).read_text(encoding="utf-8"))
    if about["width"] is None:
        return None
    size, dtype = starts[-1] * about["width"], getattr(torch, about["dtype"])
    if size == 0:
        return None
    path = directory / _STATES
    if not path.is_file():
        raise FileNotFoundError(path)
    states = torch.from_file(str(path), shared=False, size=size, dtype=dtype)
    traits = about.get("head")  # entries of earlier versions have none
    head = None if traits is None else HeadTraits.model_validate(traits)
    return TeacherStates(states.view(starts[-1], about["width"]), starts, head)


@torch.no_grad()
def _compute(
    model: Any,
    sequences: Sequence[TokenSequence],
    starts: Sequence[int],
    path: Path,
    limit: int,
    report: Callable[[int, int], None],
) -> dict[str, Any]:
    """Write the states of ``sequences`` to ``path``; return their width and dtype, and the head's.

    There is no width if the teacher's logits are not its head's.

    Raises:
        _NotStoredError: They take more than ``limit`` bytes.
    """
    lm_head = LMHead.of(model, trained=False)
    if lm_head.body is None:
        return {"width": None}
    collator = PromptCollator(0)
    device = next(model.parameters()).device
    whole: Tensor | None = None
    done = 0
    for indices in _batches(sequences):
        pairs = [(sequences[i].prompt, sequences[i].completion or ()) for i in indices]
        padded = collator.pad(pairs, [sequences[i].earlier for i in indices])
        positions = counted_positions(padded.pop("labels"))
        batch = {name: values.to(device) for name, values in padded.items()}
        states = lm_head.states(batch, positions)
        if type(lm_head.head) is nn.Linear:
            states = states.to(computing_dtype(lm_head.head.weight))  # as the head reads them
        states = states.cpu()
        if whole is None:
            width = states.shape[1]
            size = starts[-1] * width
            if size * states.dtype.itemsize > limit:
                raise _NotStoredError
            # A mapped page that finds no room would end the process.
            reserve(path, size * states.dtype.itemsize)
            whole = torch.from_file(str(path), shared=True, size=size, dtype=states.dtype)
            whole = whole.view(starts[-1], width)
        read = 0
        for index in indices:
            count = sequences[index].trained
            whole[starts[index] : starts[index + 1]] = states[read : read + count]
            read += count
        done += len(indices)
        report(done, len(sequences))
    assert whole is not None
    traits = HeadTraits.of(lm_head)
    return {
        "width": whole.shape[1],
        "dtype": str(whole.dtype).removeprefix("torch."),
        "head": None if traits is None else traits.model_dump(),
    }


def _batches(sequences: Sequence[TokenSequence]) -> list[list[int]]:
    """Group sequences of similar length, in an order that does not depend on the trial."""
    lengths = [len(s.prompt) + len(s.completion or ()) for s in sequences]
    order = sorted(range(len(sequences)), key=lambda index: (lengths[index], index))
    batches: list[list[int]] = [[]]
    for index in order:
        if batches[-1] and lengths[index] * (len(batches[-1]) + 1) > _BATCH_TOKENS:
            batches.append([])
        batches[-1].append(index)
    return batches
