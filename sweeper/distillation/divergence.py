"""The divergence between student and teacher, one chunk of positions at a time.

For a student's next-token distribution p and a teacher's q, both at temperature 1, the generalized
Jensen–Shannon divergence (Eq. (1) of https://arxiv.org/abs/2306.13649, as TRL's ``GKDTrainer``
has it) is

    beta KL(q‖m) + (1 - beta) KL(p‖m),    m = beta q + (1 - beta) p,

and, where that vanishes, KL(q‖p) at beta = 0 and KL(p‖q) at beta = 1. Its gradient with respect to
the student's logits is

    (1 - beta) p (log(p/m) - KL(p‖m));    p - q at beta = 0;    p (log(p/q) - KL(p‖q)) at beta = 1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Self

import torch
from torch import Tensor

from sweeper.distillation.chunked_loss import BUDGET, chunked_loss
from sweeper.distillation.models.lm_head import LMHead
from sweeper.distillation.sampled_tokens import SampledTokens


@dataclass(frozen=True)
class Heads:
    """Heads of a student and a teacher, and the divergence between them.

    Attributes:
        student: Head of the student.
        teacher: Head of the teacher.
        cut: True to leave out a teacher's logits past the student's last; otherwise a difference in
            their number is an error.
    """

    student: LMHead
    teacher: LMHead
    cut: bool = False

    @classmethod
    def of(cls, student: Any, teacher: Any, *, cut: bool = False) -> Self:
        """Find the heads of two models; see ``LMHead.of``."""
        return cls(LMHead.of(student, trained=True), LMHead.of(teacher, trained=False), cut)

    def reading(self, student: Any) -> Self:
        """Return the heads for another copy of the student."""
        return replace(self, student=self.student.of_copy(student))

    def divergence(
        self,
        ours: Tensor,
        theirs: Tensor,
        beta: float,
        *,
        sampled: SampledTokens | None = None,
        budget: int = BUDGET,
    ) -> Tensor:
        """Return the generalized Jensen–Shannon divergence in nats, summed over positions.

        It is computed in float32 (float64 for float64 models), together with its gradients: a
        second backward pass through it is an error. Call it under the autocast that the states were
        made under.

        Args:
            ours: States of the student, from ``student.states``.
            theirs: States of the teacher at the same positions; they get no gradient.
            beta: Interpolation from 0, KL(teacher‖student), to 1, KL(student‖teacher). Within 1e-3
                of an end, but not at it, rounding costs up to 1e-7 / distance, relative.
            sampled: Tokens at the positions, whose sums are collected.
            budget: Bytes that the logits of one chunk may take. A smaller budget takes longer, as
                every chunk reads both heads again.

        Raises:
            ValueError: beta is outside, or the numbers of positions or of logits do not match.
        """
        check_divergence(beta, len(ours), len(theirs))
        objective = _TeacherDivergence(self, theirs.detach(), float(beta), sampled)
        return chunked_loss(ours, self.student, objective, budget=budget)

    def teacher_logits(self, theirs: Tensor, vocabulary: int, device: torch.device) -> Tensor:
        """Return the teacher's logits, at least in float32.

        Args:
            theirs: States of the teacher.
            vocabulary: Number of the student's logits.
            device: Device of the student's logits.

        Raises:
            ValueError: The numbers of logits do not match.
        """
        logits = self.teacher.logits(theirs).to(device)
        if self.cut and logits.shape[1] > vocabulary:
            logits = logits[:, :vocabulary]
        if logits.shape[1] != vocabulary:
            counts = f"{vocabulary} and {logits.shape[1]}"
            raise ValueError(f"student and teacher must give as many logits, but got {counts}")
        return logits.to(torch.promote_types(logits.dtype, torch.float32))


def check_divergence(beta: float, ours: int, theirs: int) -> None:
    """Check the arguments of a divergence.

    Args:
        beta: Interpolation of the divergence.
        ours: Number of the student's positions.
        theirs: Number of the teacher's positions.

    Raises:
        ValueError: beta is outside, or the numbers of positions do not match.
    """
    if not 0 <= beta <= 1:
        raise ValueError(f"beta must be in [0, 1], but got {beta}")
    if ours != theirs:
        raise ValueError(f"positions must match, but got {ours} and {theirs}")


@dataclass(frozen=True)
class _TeacherDivergence:
    """The objective of ``Heads.divergence``.

    Attributes:
        heads: How the teacher's logits are made.
        theirs: The teacher's states.
        beta: The divergence's parameter.
        sampled: Tokens whose sums are collected.
    """

    heads: Heads
    theirs: Tensor
    beta: float
    sampled: SampledTokens | None

    def chunk(self, rows: slice, vocabulary: int, device: torch.device) -> Tensor:
        """Return the teacher's logits."""
        return self.heads.teacher_logits(self.theirs[rows], vocabulary, device)

    def into_gradient(self, logits: Tensor, targets: Tensor, rows: slice, work: Tensor) -> Tensor:
        """Return the divergence of each position; ``logits`` become its gradient."""
        teacher = targets.to(logits.dtype)
        sampled = self.sampled
        watch = None
        if sampled is not None:
            watch = partial(sampled.add, rows, logits, teacher, scratch=logits)
        return divergence_into_gradient(logits, teacher, self.beta, work, watch)


_Watch = Callable[[Tensor, Tensor], None] | None
"""Receives p and q, as soon as the student's logits are not needed any more."""


def divergence_into_gradient(
    z: Tensor, teacher: Tensor, beta: float, work: Tensor, watch: _Watch = None
) -> Tensor:
    """Return the divergence of each position; turn ``z``, the student's logits, into its gradient.

    Args:
        z: Logits of the student (positions × outcomes).
        teacher: Logits of the teacher.
        beta: Interpolation, as ``Heads.divergence`` has it.
        work: Scratch space of three times the logits' shape.
        watch: Callback for the probabilities of both, which may overwrite ``z``.
    """
    return (_kl if beta in (0, 1) else _mixed)(z, teacher, beta, work, watch)


def _kl(z: Tensor, teacher: Tensor, beta: float, work: Tensor, watch: _Watch = None) -> Tensor:
    """Return KL(q‖p) at beta = 0, KL(p‖q) at beta = 1; turn ``z`` into its gradient.

    ``z`` are the student's logits. Tokens that the first distribution rules out (logits of -inf)
    count for nothing. If only the second one does, the divergence is infinite.
    """
    log_p = torch.log_softmax(z, -1, out=work[0])
    log_q = torch.log_softmax(teacher, -1, out=work[1])
    log_ratio = torch.sub(log_p, log_q, out=work[2])
    p, q = log_p.exp_(), log_q.exp_()
    if watch is not None:
        watch(p, q)
    difference = torch.sub(p, q, out=z)
    # 0 but for rounding. It removes the rounding error of the divergence, most of it near p = q.
    rest: Tensor = difference.sum(-1)
    kl: Tensor
    if beta == 0:
        log_ratio.nan_to_num_(nan=0, posinf=0, neginf=-torch.inf)
        kl = -torch.linalg.vecdot(q, log_ratio)
        return kl + rest
    log_ratio.nan_to_num_(nan=0, posinf=torch.inf, neginf=0)
    kl = torch.linalg.vecdot(p, log_ratio)
    torch.mul(log_ratio.sub_(_mean(kl, p)), p, out=z)
    return kl - rest


def _mixed(z: Tensor, teacher: Tensor, beta: float, work: Tensor, watch: _Watch = None) -> Tensor:
    """Return the divergence for 0 < beta < 1; turn ``z``, the student's logits, into its gradient.

    It uses log(m/p) = log1p(beta (q - p) / p) and its counterpart for q. They stay exact near
    p = q, and an underflow of p or q does no harm.
    """
    limits = torch.finfo(z.dtype)
    p = torch.softmax(z, -1, out=work[0]).clamp_(min=limits.tiny)
    q = torch.softmax(teacher, -1, out=work[1]).clamp_(min=limits.tiny)
    if watch is not None:
        watch(p, q)
    # Only rounding gets below this, with beta next to an end.
    least = limits.eps - 1
    difference = torch.sub(q, p, out=z)
    log_m_p = torch.div(difference, p, out=work[2]).mul_(beta).clamp_(min=least).log1p_()
    log_m_q = difference.div_(q).mul_(beta - 1).clamp_(min=least).log1p_()
    kl_p: Tensor = -torch.linalg.vecdot(p, log_m_p)
    kl_q: Tensor = -torch.linalg.vecdot(q, log_m_q)
    torch.add(log_m_p, _mean(kl_p, p), out=z).mul_(p).mul_(beta - 1)
    return beta * kl_q + (1 - beta) * kl_p


def _mean(total: Tensor, p: Tensor) -> Tensor:
    """Return a sum over the tokens, weighted by p, as the mean that centres a gradient.

    The sum of p is not exactly 1, which matters where p is nearly all on one token.
    """
    return (total / p.sum(-1))[:, None]
