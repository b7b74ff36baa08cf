"""The losses of the arms: what is summed over an answer's tokens.

Every arm's loss is one of these two, or ``ServedTeacherLoss``, and nothing is added to it: no
load-balancing loss of a mixture's router, no label smoothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor

from sweeper.config.settings import MethodSettings
from sweeper.distillation.cross_entropy import cross_entropy
from sweeper.distillation.data.batches import next_values, sent
from sweeper.distillation.divergence import Heads
from sweeper.distillation.models.lm_head import LMHead
from sweeper.distillation.models.rounding import store_for_autocast
from sweeper.distillation.models.wide_products import WideProducts, multiplies_slowly
from sweeper.distillation.partial_divergence import sampled_divergence_of, top_k_divergence_of
from sweeper.distillation.sampled_tokens import ReportedLogProbs, SampledTokens
from sweeper.distillation.sharding import shard_teacher
from sweeper.distillation.teacher.hidden_states import TeacherStates

Timing = Callable[[str], AbstractContextManager[None]]
"""Times a part of a step."""


@dataclass(frozen=True)
class Observed:
    """What a loss saw of rollouts' tokens, by what it is of.

    Attributes:
        sums: Sums over tokens.
        largest: Largest values of a token.
    """

    sums: Mapping[str, float]
    largest: Mapping[str, float]


Reading = Callable[[], Observed]
"""Reads what was observed, and waits for the device until that is known."""


class TokenLoss(Protocol):
    """A loss summed over the positions that count."""

    def expect(self, batches: Sequence[dict[str, Any]]) -> None:
        """Prepare for the micro-batches of a window, whose rollouts are in place.

        Args:
            batches: Batches of ``PromptCollator``, which may be added to.
        """

    def targets(self, inputs: dict[str, Any]) -> Any:
        """Return what the student is compared with at the positions that count.

        Args:
            inputs: A batch of ``PromptCollator``, on the student's device.
        """

    def total(self, states: Tensor, head: LMHead, targets: Any, budget: int) -> Tensor:
        """Return the loss in nats, summed over positions.

        Args:
            states: The student's states at the positions that count.
            head: How the student's logits are made of them.
            targets: What ``targets`` returned for the same positions.
            budget: Bytes that the logits of one chunk of positions may take.
        """

    def observed(self) -> Reading:
        """Return what was seen of the rollouts' tokens since the last call, to be read later."""


class ReferenceLoss:
    """Cross-entropy of the answers: ``sft`` and ``seqkd``."""

    def expect(self, batches: Sequence[dict[str, Any]]) -> None:
        """Do nothing."""

    def targets(self, inputs: dict[str, Any]) -> Tensor:
        """Return the next tokens."""
        return next_values(inputs["labels"], inputs["positions"])

    def total(self, states: Tensor, head: LMHead, targets: Tensor, budget: int) -> Tensor:
        """Return the negative log-likelihood."""
        return cross_entropy(states, head, targets, budget=budget)

    def observed(self) -> Reading:
        """Return nothing: no rollout is trained on."""
        return lambda: Observed({}, {})


@dataclass(frozen=True)
class TeacherTargets:
    """Targets of ``TeacherLoss``.

    Attributes:
        states: The teacher's states.
        sampled: Next tokens, where the student has sampled them.
    """

    states: Tensor
    sampled: SampledTokens | None = None


class TeacherLoss:
    """The divergence from the teacher: ``gkd`` and ``supervised_kd``.

    Args:
        teacher: The teacher; its dropout is turned off. Its head alone (an ``LMHead``) where no
            sequence is read that is not stored.
        settings: Settings of the trial: the divergence, and how much of the teacher it reads.
        stored: The teacher's states on the rows of the dataset, where they are stored.
        sharded: True if the processes shard the teacher among them.
        autocast: The precision that autocast computes in, if it is on.
        timing: Times the teacher.
    """

    def __init__(
        self,
        teacher: Any,
        settings: MethodSettings,
        *,
        stored: TeacherStates | None,
        sharded: bool,
        autocast: torch.dtype | None,
        timing: Timing,
    ) -> None:
        alone = isinstance(teacher, LMHead)
        model = teacher.head if alone else teacher
        self._teacher = model.eval()
        self._settings = settings
        self._stored = stored
        self._sharded = sharded
        self._timing = timing
        self._head: LMHead | None = teacher if alone else None
        self._observed: list[Tensor] = []
        if autocast is not None:
            store_for_autocast(model, autocast)
        if multiplies_slowly(next(model.parameters()).device.type, autocast):
            WideProducts().install(model)
        if sharded:
            shard_teacher(model)

    def expect(self, batches: Sequence[dict[str, Any]]) -> None:
        """Do nothing: the teacher reads each micro-batch when its turn comes."""

    def targets(self, inputs: dict[str, Any]) -> TeacherTargets:
        """Return the teacher's states, stored ones where there are any, and rollouts' tokens."""
        states = self._states(inputs)
        if inputs["rows"].indices is not None:
            return TeacherTargets(states)
        return TeacherTargets(states, sampled_tokens(inputs))

    def _states(self, inputs: dict[str, Any]) -> Tensor:
        with self._timing("teacher"), torch.no_grad():
            if self._head is None:
                self._head = LMHead.of(self._teacher, trained=False)
            indices, tokens = inputs["rows"].indices, inputs["input_ids"]
            # A sharded teacher reads in all processes, or in none.
            some_read = self._sharded and not inputs["all_stored"]
            if self._stored is None or indices is None or some_read:
                return self._head.states({"input_ids": tokens}, inputs["positions"])
            return sent(self._stored.of(indices), tokens.device)

    def total(self, states: Tensor, head: LMHead, targets: TeacherTargets, budget: int) -> Tensor:
        """Return the divergence, or an estimate of it: what ``teacher_signal`` asks for."""
        assert self._head is not None
        heads, settings = Heads(head, self._head), self._settings
        theirs, sampled = targets.states, targets.sampled
        if settings.teacher_signal == "sampled":
            assert sampled is not None, "the study file was checked: every sequence is a rollout"
            loss = sampled_divergence_of(
                heads, states, theirs, sampled, temperature=settings.temperature, budget=budget
            )
        elif settings.teacher_signal == "top_k":
            k, beta = settings.teacher_top_k, settings.beta
            loss = top_k_divergence_of(
                heads, states, theirs, beta, k, sampled=sampled, budget=budget
            )
        else:
            loss = heads.divergence(states, theirs, settings.beta, sampled=sampled, budget=budget)
        if sampled is not None:
            self._observed.append(torch.cat([sampled.sums, sampled.differences()]))
        return loss

    def observed(self) -> Reading:
        """Return the sums of ``SampledTokens``, and the largest difference."""
        seen, self._observed = self._observed, []
        return partial(_read, torch.stack(seen) if seen else torch.zeros(1, 5))


def _read(rows: Tensor) -> Observed:
    """Read the sums of micro-batches, each of which is a row."""
    *sums, largest = zip(*rows.tolist(), strict=True)
    names = ("student_entropy", "teacher_entropy", "teacher_logprob", "logprob_diff")
    return Observed(
        {name: sum(values) for name, values in zip(names, sums, strict=True)},
        {"logprob_diff_max": max(largest)},
    )


def sampled_tokens(inputs: dict[str, Any]) -> SampledTokens:
    """Return the tokens of a batch of rollouts, with what their engine reported of them."""
    reported = None
    positions = inputs["positions"]
    if inputs.get("log_probs") is not None:
        log_probs = next_values(inputs["log_probs"], positions)
        reported = ReportedLogProbs.of(log_probs, inputs["log_probs_at"])
    return SampledTokens.of(next_values(inputs["labels"], positions), reported)
