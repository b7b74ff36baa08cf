"""The divergence from a teacher that a server answers for: ``gkd`` and ``supervised_kd``.

The teacher is not loaded: it reports its most likely tokens, and the one that stands there. The
rollouts of a window are asked for as soon as they are sampled, so that the server works while the
student reads the first of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from sweeper.config.settings import MethodSettings
from sweeper.distillation.data.batches import sent
from sweeper.distillation.models.lm_head import LMHead
from sweeper.distillation.partial_divergence import (
    TokenLogProbs,
    sampled_divergence,
    top_k_divergence,
)
from sweeper.distillation.sampled_tokens import SampledTokens
from sweeper.distillation.teacher.served_judge import Judgement, ServedJudge, Text
from sweeper.distillation.teacher.stored_judgement import StoredJudgement
from sweeper.distillation.trainers.losses import Observed, Reading, Timing, sampled_tokens


@dataclass(frozen=True)
class ReportedTargets:
    """Targets of ``ServedTeacherLoss``.

    Attributes:
        teacher: What the teacher reports.
        sampled: Next tokens, where the student has sampled them.
        own: The teacher's log-probability of each of these.
    """

    teacher: TokenLogProbs
    sampled: SampledTokens | None = None
    own: Tensor | None = None


class ServedTeacherLoss:
    """The divergence from what a served teacher reports.

    Args:
        judge: The served teacher; it reports what ``settings`` ask for, ``tokens_to_report``.
        settings: Settings of the trial: the divergence, and how much of the teacher it reads.
        stored: The teacher's judgement of the rows of the dataset, where it is stored.
        timing: Times the teacher.
        used: Called with the seconds in which the server was asked: also those in which the student
            computed meanwhile.
    """

    def __init__(
        self,
        judge: ServedJudge,
        settings: MethodSettings,
        *,
        stored: StoredJudgement | None,
        timing: Timing,
        used: Callable[[float], None],
    ) -> None:
        self._judge, self._settings, self._stored = judge, settings, stored
        self._timing, self._used = timing, used
        self._seen: list[Tensor] = []

    def expect(self, batches: Sequence[dict[str, Any]]) -> None:
        """Ask for what the micro-batches of a window need and is not stored."""
        for batch in batches:
            if self._stored is None or batch["rows"].indices is None:
                batch["judged"] = self._ask(batch)

    def targets(self, inputs: dict[str, Any]) -> ReportedTargets:
        """Return what the teacher reports, stored where it is, and rollouts' tokens."""
        device, indices = inputs["input_ids"].device, inputs["rows"].indices
        with self._timing("teacher"):
            if self._stored is not None and indices is not None:
                reported = self._stored.of(indices, self._settings.teacher_top_k)
                return ReportedTargets(_on(device, reported))
            asked = inputs.get("judged") or self._ask(inputs)
            found = Judgement.joined(self._judge.result(one) for one in asked)
            self._used(self._judge.take_seconds())
            sampled, own = sampled_tokens(inputs), sent(found.own, device)
            if self._settings.teacher_signal == "sampled":
                teacher = TokenLogProbs(sampled.tokens[:, None], own[:, None])
            else:
                teacher = _on(device, TokenLogProbs(found.ids, found.log_probs))
        if indices is not None:
            return ReportedTargets(teacher)
        return ReportedTargets(teacher, sampled, own)

    def total(self, states: Tensor, head: LMHead, targets: ReportedTargets, budget: int) -> Tensor:
        """Return the divergence, or an estimate of it: what ``teacher_signal`` asks for."""
        settings, sampled = self._settings, targets.sampled
        if settings.teacher_signal == "sampled":
            assert sampled is not None, "the study file was checked: every sequence is a rollout"
            loss = sampled_divergence(
                states,
                head,
                targets.teacher,
                temperature=settings.temperature,
                sampled=sampled,
                budget=budget,
            )
        else:
            loss = top_k_divergence(
                states, head, targets.teacher, settings.beta, sampled=sampled, budget=budget
            )
        if sampled is not None and targets.own is not None:
            own = targets.own.sum()[None]
            self._seen.append(torch.cat([sampled.sums[:1], own, sampled.differences()]))
        return loss

    def observed(self) -> Reading:
        """Return sums over the rollouts' tokens; the teacher's entropy is not known."""
        seen, self._seen = self._seen, []
        return partial(_read, torch.stack(seen) if seen else torch.zeros(1, 4))

    def _ask(self, batch: dict[str, Any]) -> list[Future[Judgement]]:
        return [self._judge.ask(Text.of(sequence)) for sequence in batch["rows"].sequences]


def _read(rows: Tensor) -> Observed:
    """Read the sums of micro-batches, each of which is a row."""
    *sums, largest = zip(*rows.tolist(), strict=True)
    names = ("student_entropy", "teacher_logprob", "logprob_diff")
    return Observed(
        {name: sum(values) for name, values in zip(names, sums, strict=True)},
        {"logprob_diff_max": max(largest)},
    )


def tokens_to_report(settings: MethodSettings) -> int:
    """Return how many of the teacher's most likely tokens a training reads at each position."""
    return 0 if settings.teacher_signal == "sampled" else settings.teacher_top_k


def _on(device: torch.device, reported: TokenLogProbs) -> TokenLogProbs:
    return TokenLogProbs(sent(reported.ids, device), sent(reported.log_probs, device))
