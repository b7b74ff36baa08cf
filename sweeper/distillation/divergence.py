"""The divergence between student and teacher, one chunk of positions at a time.

For a student's next-token distribution p and a teacher's q, both at temperature 1, the generalized
Jensen–Shannon divergence (Eq. (1) of https://arxiv.org/abs/2306.13649, as TRL's ``GKDTrainer``
has it) is

    beta KL(q‖m) + (1 - beta) KL(p‖m),    m = beta q + (1 - beta) p,

and, where that vanishes, KL(q‖p) at beta = 0 and KL(p‖q) at beta = 1. Its gradient with respect to
the student's logits is

    (1 - beta) p (log(p/m) - KL(p‖m));    p - q at beta = 0;    p (log(p/q) - KL(p‖q)) at beta = 1.

The forward pass makes logits, loss and gradients from the last hidden states, one chunk after the
other, as Liger's fused losses do (https://arxiv.org/abs/2410.10989).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor

from sweeper.distillation.models.lm_head import LMHead, capped, computing_dtype

BUDGET = 256 * 2**20
"""Bytes that the logits of one chunk of positions may take, for both models together."""


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
        self, ours: Tensor, theirs: Tensor, beta: float, *, budget: int = BUDGET
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
            budget: Bytes that the logits of one chunk may take. A smaller budget takes longer, as
                every chunk reads both heads again.

        Raises:
            ValueError: beta is outside, or the numbers of positions or of logits do not match.
        """
        if not 0 <= beta <= 1:
            raise ValueError(f"beta must be in [0, 1], but got {beta}")
        if len(ours) != len(theirs):
            raise ValueError(f"positions must match, but got {len(ours)} and {len(theirs)}")
        head = self.student.head
        weight, bias = (None, None) if head is None else (head.weight, head.bias)
        loss: Tensor = _Divergence.apply(  # type: ignore[no-untyped-call]
            ours, weight, bias, theirs.detach(), self, float(beta), budget, torch.is_grad_enabled()
        )
        return loss


class _Divergence(torch.autograd.Function):
    """``Heads.divergence`` as a function of states (N × d, or N × V without a head) and head."""

    @staticmethod
    def forward(
        ctx: Any,
        states: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        theirs: Tensor,
        heads: Heads,
        beta: float,
        budget: int,
        graded: bool,
    ) -> Tensor:
        """Return the sum over positions, and keep the gradients in ``ctx``."""
        to_states, to_weight, to_bias = (graded and need for need in ctx.needs_input_grad[:3])
        device = (states if weight is None else weight).device
        dtype = states.dtype if weight is None else computing_dtype(weight)
        exact = torch.promote_types(dtype, torch.float32)
        hidden = states.to(device, dtype)
        matrix = None if weight is None else weight.to(dtype)
        offset = None if bias is None else bias.to(dtype)
        vocabulary = states.shape[1] if weight is None else len(weight)

        row = vocabulary * exact.itemsize
        chunks = max(1, -(-2 * row * len(states) // budget))
        rows = max(1, -(-len(states) // chunks))
        block = max(1, min(rows, _block_bytes(device) // row))
        room = torch.empty(rows, vocabulary, dtype=dtype, device=device)
        work = torch.empty(3, block, vocabulary, dtype=exact, device=device)
        losses = torch.empty(len(states), dtype=exact, device=device)
        grad_states = torch.empty_like(states) if to_states else None
        # Sums over chunks are in float32: a sum in bfloat16 would absorb later chunks.
        grad_weight: Tensor | None = None
        grad_bias: Tensor | None = None

        for start in range(0, len(states), rows):
            chunk = slice(start, start + rows)
            teacher = heads.teacher.logits(theirs[chunk]).to(device)
            if heads.cut and teacher.shape[1] > vocabulary:
                teacher = teacher[:, :vocabulary]
            if teacher.shape[1] != vocabulary:
                sizes = f"{vocabulary} and {teacher.shape[1]}"
                raise ValueError(f"student and teacher must give as many logits, but got {sizes}")
            with torch.autocast(device.type, enabled=False):
                logits = room[: len(teacher)]
                if matrix is None:
                    logits.copy_(hidden[chunk])
                elif offset is None:
                    torch.mm(hidden[chunk], matrix.t(), out=logits)
                else:
                    torch.addmm(offset, hidden[chunk], matrix.t(), out=logits)
                for first in range(0, len(logits), block):
                    part = slice(first, first + block)
                    piece = capped(teacher[part].to(exact), heads.teacher.cap)
                    losses[chunk][part] = _into_gradient(
                        logits[part], piece, beta, heads.student.cap, work, graded
                    )
                # By now ``logits`` holds the loss's gradient with respect to the logits.
                if grad_states is not None:
                    grad_states[chunk] = (logits if matrix is None else logits @ matrix).to(states)
                if to_weight:
                    if grad_weight is None:
                        grad_weight = (logits.t() @ hidden[chunk]).to(exact)
                    elif dtype == exact:
                        grad_weight.addmm_(logits.t(), hidden[chunk])
                    else:
                        grad_weight += logits.t() @ hidden[chunk]
                if to_bias:
                    summed = logits.sum(0, dtype=exact)
                    grad_bias = summed if grad_bias is None else grad_bias.add_(summed)
            # Freed before the next chunk's.
            del teacher, piece
        ctx.save_for_backward(
            grad_states,
            None if grad_weight is None else grad_weight.to(weight),
            None if grad_bias is None else grad_bias.to(bias),
        )
        return losses.sum()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        """Return the forward pass's gradients, scaled."""
        # In place, as the weight's gradient is as large as the weight; a second pass is an error.
        grads = [grad if grad is None else grad.mul_(grad_output) for grad in ctx.saved_tensors]
        return (*grads, None, None, None, None, None)


def _block_bytes(device: torch.device) -> int:
    """Return the bytes of logits to process at once.

    One CPU thread is fastest on data in its cache. Several threads wait for each other after each
    operation, so fewer, larger operations are faster, as on an accelerator.
    """
    return (2 if device.type == "cpu" and torch.get_num_threads() == 1 else 32) * 2**20


def _into_gradient(
    logits: Tensor, teacher: Tensor, beta: float, cap: float | None, work: Tensor, graded: bool
) -> Tensor:
    """Return the divergence at each position, and turn ``logits`` into its gradient.

    Args:
        logits: Logits of the student before its cap (positions × vocabulary), in any precision.
        teacher: Logits of the teacher after its cap, in the precision to compute in.
        beta: Interpolation, as in ``Heads.divergence``.
        cap: Soft cap of the student.
        work: Buffer of three times the size of ``logits``.
        graded: False leaves ``logits`` with meaningless values.
    """
    work = work[:, : len(logits)]
    z = logits.to(teacher.dtype)
    slope: Tensor | None = None
    if cap is not None:
        z.div_(cap).tanh_()
        slope = (z * z).neg_().add_(1)
        z.mul_(cap)
    losses = (_kl if beta in (0, 1) else _mixed)(z, teacher, beta, work)
    if slope is not None:
        z.mul_(slope)
    if graded and z is not logits:
        logits.copy_(z)
    return losses


def _kl(z: Tensor, teacher: Tensor, beta: float, work: Tensor) -> Tensor:
    """Return KL(q‖p) at beta = 0, KL(p‖q) at beta = 1; turn ``z`` into its gradient.

    ``z`` are the student's logits. Tokens that the first distribution rules out (logits of -inf)
    count for nothing. If only the second one does, the divergence is infinite.
    """
    log_p = torch.log_softmax(z, -1, out=work[0])
    log_q = torch.log_softmax(teacher, -1, out=work[1])
    log_ratio = torch.sub(log_p, log_q, out=work[2])
    p, q = log_p.exp_(), log_q.exp_()
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


def _mixed(z: Tensor, teacher: Tensor, beta: float, work: Tensor) -> Tensor:
    """Return the divergence for 0 < beta < 1; turn ``z``, the student's logits, into its gradient.

    It uses log(m/p) = log1p(beta (q - p) / p) and its counterpart for q. They stay exact near
    p = q, and an underflow of p or q does no harm.
    """
    limits = torch.finfo(z.dtype)
    p = torch.softmax(z, -1, out=work[0]).clamp_(min=limits.tiny)
    q = torch.softmax(teacher, -1, out=work[1]).clamp_(min=limits.tiny)
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
