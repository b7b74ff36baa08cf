"""The divergence from a teacher that a server answers for: ``gkd`` and ``supervised_kd``.

The teacher is not loaded: it reports its most likely tokens, and the one that stands there. The
rollouts of a window are asked for as soon as they are sampled, so that the server works while the
student reads the first of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from sweeper.config.settings import MethodSettings
from sweeper.distillation.data.batches import IGNORED
from sweeper.distillation.models.lm_head import LMHead
from sweeper.distillation.partial_divergence import (
    TokenLogProbs,
    sampled_divergence,
    top_k_divergence,
)
from sweeper.distillation.sampled_tokens import SampledTokens
from sweeper.distillation.teacher.served_judge import Judgement, ServedJudge, Text
from sweeper.distillation.teacher.stored_judgement import StoredJudgement
from sweeper.distillation.trainers.losses import Observed, Timing, sampled_tokens


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
        self._seen: list[tuple[SampledTokens, Tensor]] = []

    def expect(self, batches: Sequence[dict[str, Any]]) -> None:
        """Ask for what the micro-batches of a window need and is not stored."""
        for batch in batches:
            if self._stored is None or batch["indices"] is None:
                batch["judged"] = self._ask(batch)

    def targets(self, inputs: dict[str, Any], counted: Tensor) -> ReportedTargets:
        """Return what the teacher reports, stored where it is, and rollouts' tokens."""
        device, indices = counted.device, inputs["indices"]
        with self._timing("teacher"):
            if self._stored is not None and indices is not None:
                reported = self._stored.of(indices, self._settings.teacher_top_k)
                return ReportedTargets(_on(device, reported))
            asked = inputs.get("judged") or self._ask(inputs)
            found = Judgement.joined(self._judge.result(one) for one in asked)
            self._used(self._judge.take_seconds())
            sampled, own = sampled_tokens(inputs, counted), found.own.to(device)
            if self._settings.teacher_signal == "sampled":
                teacher = TokenLogProbs(sampled.tokens[:, None], own[:, None])
            else:
                teacher = _on(device, TokenLogProbs(found.ids, found.log_probs))
        if indices is not None:
            return ReportedTargets(teacher)
        return ReportedTargets(teacher, sampled, own)

    def total(self, states: Tensor, head: LMHead, targets: ReportedTargets) -> Tensor:
        """Return the divergence, or an estimate of it: what ``teacher_signal`` asks for."""
        settings, sampled = self._settings, targets.sampled
        if settings.teacher_signal == "sampled":
            assert sampled is not None, "the study file was checked: every sequence is a rollout"
            loss = sampled_divergence(
                states, head, targets.teacher, temperature=settings.temperature, sampled=sampled
            )
        else:
            loss = top_k_divergence(states, head, targets.teacher, settings.beta, sampled=sampled)
        if sampled is not None and targets.own is not None:
            self._seen.append((sampled, targets.own))
        return loss

    def observed(self) -> Observed:
        """Return sums over the rollouts' tokens; the teacher's entropy is not known."""
        # Only now is the device waited for.
        differences = [sampled.differences().tolist() for sampled, _ in self._seen]
        found = Observed(
            {
                "student_entropy": sum(float(sampled.sums[0]) for sampled, _ in self._seen),
                "teacher_logprob": sum(float(own.sum()) for _, own in self._seen),
                "logprob_diff": sum(total for total, _ in differences),
            },
            {"logprob_diff_max": max((largest for _, largest in differences), default=0.0)},
        )
        self._seen.clear()
        return found

    def _ask(self, batch: dict[str, Any]) -> list[Future[Judgement]]:
        labels, lengths = batch["labels"].cpu(), batch["attention_mask"].sum(1).tolist()
        rows = zip(batch["input_ids"].tolist(), labels, lengths, strict=True)
        texts = [
            Text(
                tuple(tokens[:length]),
                tuple((own[1:] != IGNORED).nonzero()[:, 0].add(1).tolist()),
            )
            for tokens, own, length in rows
        ]
        return [self._judge.ask(text) for text in texts]


def tokens_to_report(settings: MethodSettings) -> int:
    """Return how many of the teacher's most likely tokens a training reads at each position."""
    return 0 if settings.teacher_signal == "sampled" else settings.teacher_top_k


def _on(device: Any, reported: TokenLogProbs) -> TokenLogProbs:
    return TokenLogProbs(reported.ids.to(device), reported.log_probs.to(device))
