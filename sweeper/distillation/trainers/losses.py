"""The losses of the arms: what is summed over an answer's tokens.

Every arm's loss is one of these two, or ``ServedTeacherLoss``, and nothing is added to it: no
load-balancing loss of a mixture's router, no label smoothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from sweeper.config.settings import MethodSettings
from sweeper.distillation.cross_entropy import cross_entropy
from sweeper.distillation.data.batches import IGNORED
from sweeper.distillation.divergence import Heads
from sweeper.distillation.models.lm_head import LMHead
from sweeper.distillation.models.loading import store_for_autocast
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


class TokenLoss(Protocol):
    """A loss summed over the positions that count."""

    def expect(self, batches: Sequence[dict[str, Any]]) -> None:
        """Prepare for the micro-batches of a window, whose rollouts are in place.

        Args:
            batches: Batches of ``PromptCollator``, which may be added to.
        """

    def targets(self, inputs: dict[str, Any], counted: Tensor) -> Any:
        """Return what the student is compared with at the positions that count.

        Args:
            inputs: A batch of ``PromptCollator``.
            counted: True where the prediction of the next token counts (batch × (length - 1)).
        """

    def total(self, states: Tensor, head: LMHead, targets: Any) -> Tensor:
        """Return the loss in nats, summed over positions.

        Args:
            states: The student's states at the positions that count.
            head: How the student's logits are made of them.
            targets: What ``targets`` returned for the same positions.
        """

    def observed(self) -> Observed:
        """Return what was seen of the rollouts' tokens since the last call."""


class ReferenceLoss:
    """Cross-entropy of the answers: ``sft`` and ``seqkd``."""

    def expect(self, batches: Sequence[dict[str, Any]]) -> None:
        """Do nothing."""

    def targets(self, inputs: dict[str, Any], counted: Tensor) -> Tensor:
        """Return the next tokens."""
        labels: Tensor = inputs["labels"][:, 1:][counted]
        return labels

    def total(self, states: Tensor, head: LMHead, targets: Tensor) -> Tensor:
        """Return the negative log-likelihood."""
        return cross_entropy(states, head, targets)

    def observed(self) -> Observed:
        """Return nothing: no rollout is trained on."""
        return Observed({}, {})


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
        if sharded:
            shard_teacher(model)

    def expect(self, batches: Sequence[dict[str, Any]]) -> None:
        """Do nothing: the teacher reads each micro-batch when its turn comes."""

    def targets(self, inputs: dict[str, Any], counted: Tensor) -> TeacherTargets:
        """Return the teacher's states, stored ones where there are any, and rollouts' tokens."""
        states = self._states(inputs, counted)
        if inputs["indices"] is not None:
            return TeacherTargets(states)
        return TeacherTargets(states, sampled_tokens(inputs, counted))

    def _states(self, inputs: dict[str, Any], counted: Tensor) -> Tensor:
        with self._timing("teacher"), torch.no_grad():
            if self._head is None:
                self._head = LMHead.of(self._teacher, trained=False)
            indices = inputs["indices"]
            # A sharded teacher reads in all processes, or in none.
            some_read = self._sharded and not inputs["all_stored"]
            if self._stored is None or indices is None or some_read:
                return self._head.states({"input_ids": inputs["input_ids"]}, counted)
            return self._stored.of(indices).to(counted.device)

    def total(self, states: Tensor, head: LMHead, targets: TeacherTargets) -> Tensor:
        """Return the divergence, or an estimate of it: what ``teacher_signal`` asks for."""
        assert self._head is not None
        heads, settings = Heads(head, self._head), self._settings
        theirs, sampled = targets.states, targets.sampled
        if settings.teacher_signal == "sampled":
            assert sampled is not None, "the study file was checked: every sequence is a rollout"
            loss = sampled_divergence_of(
                heads, states, theirs, sampled, temperature=settings.temperature
            )
        elif settings.teacher_signal == "top_k":
            k = settings.teacher_top_k
            loss = top_k_divergence_of(heads, states, theirs, settings.beta, k, sampled=sampled)
        else:
            loss = heads.divergence(states, theirs, settings.beta, sampled=sampled)
        if sampled is not None:
            self._observed.append(torch.cat([sampled.sums, sampled.differences()]))
        return loss

    def observed(self) -> Observed:
        """Return the sums of ``SampledTokens``, and the largest difference."""
        # Only now is the device waited for.
        rows = torch.stack(self._observed).tolist() if self._observed else [[0.0] * 5]
        self._observed.clear()
        *sums, largest = zip(*rows, strict=True)
        names = ("student_entropy", "teacher_entropy", "teacher_logprob", "logprob_diff")
        return Observed(
            {name: sum(values) for name, values in zip(names, sums, strict=True)},
            {"logprob_diff_max": max(largest)},
        )


def sampled_tokens(inputs: dict[str, Any], counted: Tensor) -> SampledTokens:
    """Return the tokens of a batch of rollouts, with what their engine reported of them."""
    reported = None
    if inputs.get("log_probs") is not None:
        log_probs = inputs["log_probs"][:, 1:][counted]
        reported = ReportedLogProbs.of(log_probs, inputs["log_probs_at"])
    return SampledTokens.of(inputs["labels"][:, 1:][counted], reported)


def counted_positions(labels: Tensor) -> Tensor:
    """Return where a prediction counts: the logits at a position predict the token after it."""
    return labels[:, 1:] != IGNORED
