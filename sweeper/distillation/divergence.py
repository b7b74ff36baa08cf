"""The divergence between student and teacher, without logits that outlive a chunk of positions.

For a student's next-token distribution p and a teacher's q, both at temperature 1, the generalized
Jensen–Shannon divergence (Eq. (1) of https://arxiv.org/abs/2306.13649, as TRL's ``GKDTrainer``
has it) is

    beta KL(q‖m) + (1 - beta) KL(p‖m),    m = beta q + (1 - beta) p,

and at the ends, where that is nothing, KL(q‖p) for beta = 0 and KL(p‖q) for beta = 1. With respect
to the student's logits its gradient is

    (1 - beta) p (log(p/m) - KL(p‖m));    p - q at beta = 0;    p (log(p/q) - KL(p‖q)) at beta = 1.

Logits, loss and gradients are made in the forward pass from the last hidden states, one chunk of
positions after the other, as Liger's fused losses do it (https://arxiv.org/abs/2410.10989).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor

from sweeper.distillation.models.lm_head import LMHead, capped, computing_dtype

BUDGET = 256 * 2**20
"""Bytes that the logits of one chunk of positions may take, both models' together."""


@dataclass(frozen=True)
class Heads:
    """Reads a student and a teacher, and takes the divergence between them.

    Attributes:
        student: How the student is read.
        teacher: How the teacher is read.
        cut: Whether a teacher's logits past the student's last are left out; otherwise a difference
            in their number is an error.
    """

    student: LMHead
    teacher: LMHead
    cut: bool = False

    @classmethod
    def of(cls, student: Any, teacher: Any, *, cut: bool = False) -> Self:
        """Find out how two models are read; see ``LMHead.of``."""
        return cls(LMHead.of(student, trained=True), LMHead.of(teacher, trained=False), cut)

    def reading(self, student: Any) -> Self:
        """The same for another copy of the student."""
        return replace(self, student=self.student.of_copy(student))

    def divergence(
        self, ours: Tensor, theirs: Tensor, beta: float, *, budget: int = BUDGET
    ) -> Tensor:
        """The generalized Jensen–Shannon divergence in nats, summed over positions.

        It is computed in float32 (float64 for float64 models). Its gradients are found with it, so
        they can be had once: a second backward pass through it is an error. To be called under the
        autocast that the states were made under.

        Args:
            ours: The student's states, from ``student.states``.
            theirs: The teacher's, of the same positions; they get no gradient.
            beta: From 0, KL(teacher‖student), to 1, KL(student‖teacher). Within 1e-3 of an end, but
                not at it, rounding costs up to 1e-7 / distance, relative.
            budget: Bytes that the logits of one chunk may take. Less takes longer, for every chunk
                reads both heads again.

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
    """See ``Heads.divergence``; of states (N × d, or N × V without a head), weight and bias."""

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
        """The sum over positions; the gradients wait in ``ctx``."""
        to_states, to_weight, to_bias = (graded and need for need in ctx.needs_input_grad[:3])
        place = states if weight is None else weight
        device = place.device
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
        # Over chunks these are summed in float32: in bfloat16 the sum would swallow what comes.
        grad_weight: Tensor | None = None
        grad_bias: Tensor | None = None

        for start in range(0, len(states), rows):
            chunk = slice(start, start + rows)
            teacher = heads.teacher.logits(theirs[chunk]).to(device)
            if heads.cut and teacher.shape[1] > vocabulary:
                teacher = teacher[:, :vocabulary]
            if teacher.shape[1] != vocabulary:
                found = f"{vocabulary} and {teacher.shape[1]}"
                raise ValueError(f"student and teacher must give as many logits, but got {found}")
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
                # What is in ``logits`` by now is the loss's gradient with respect to them.
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
            # Not beside the next chunk's.
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
        """The gradients that the forward pass has found, scaled."""
        # In place, for the weight's is as large as the weight; autograd refuses a second time.
        grads = [grad if grad is None else grad.mul_(grad_output) for grad in ctx.saved_tensors]
        return (*grads, None, None, None, None, None)


def _block_bytes(device: torch.device) -> int:
    """How many bytes of logits to take the divergence of at once.

    One CPU thread is fastest on what its cache holds; several wait for each other after each
    operation, so these had better be few, as on an accelerator.
    """
    return (2 if device.type == "cpu" and torch.get_num_threads() == 1 else 32) * 2**20


def _into_gradient(
    logits: Tensor, teacher: Tensor, beta: float, cap: float | None, work: Tensor, graded: bool
) -> Tensor:
    """The divergence at each position; ``logits`` become its gradient with respect to them.

    Args:
        logits: The student's, before its cap (positions × vocabulary), in any precision.
        teacher: The teacher's, after its cap (the same shape), in the precision to compute in.
        beta: As ``Heads.divergence``'s.
        cap: The student's.
        work: Room for three times as many.
        graded: Otherwise what becomes of ``logits`` means nothing.
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
    """KL(q‖p) at beta = 0, KL(p‖q) at beta = 1; ``z``, the student's logits, become its gradient.

    Tokens that one of them rules out (logits of -inf) count for nothing if that is the first one;
    if only the second one does, the divergence is infinite.
    """
    log_p = torch.log_softmax(z, -1, out=work[0])
    log_q = torch.log_softmax(teacher, -1, out=work[1])
    log_ratio = torch.sub(log_p, log_q, out=work[2])
    p, q = log_p.exp_(), log_q.exp_()
    difference = torch.sub(p, q, out=z)
    # 0 but for rounding, of which it frees the divergence: near p = q that would be most of it.
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
    """The divergence between the ends; ``z``, the student's logits, become its gradient.

    By log(m/p) = log1p(beta (q - p) / p) and its like for q, which stay exact near p = q and in
    which neither p nor q that underflows does harm.
    """
    limits = torch.finfo(z.dtype)
    p = torch.softmax(z, -1, out=work[0]).clamp_(min=limits.tiny)
    q = torch.softmax(teacher, -1, out=work[1]).clamp_(min=limits.tiny)
    # Only rounding gets below, with beta next to an end.
    least = limits.eps - 1
    difference = torch.sub(q, p, out=z)
    log_m_p = torch.div(difference, p, out=work[2]).mul_(beta).clamp_(min=least).log1p_()
    log_m_q = difference.div_(q).mul_(beta - 1).clamp_(min=least).log1p_()
    kl_p: Tensor = -torch.linalg.vecdot(p, log_m_p)
    kl_q: Tensor = -torch.linalg.vecdot(q, log_m_q)
    torch.add(log_m_p, _mean(kl_p, p), out=z).mul_(p).mul_(beta - 1)
    return beta * kl_q + (1 - beta) * kl_p


def _mean(total: Tensor, p: Tensor) -> Tensor:
    """A sum over the tokens, weighted by p, as the mean that a gradient is to be centred by.

    The sum of p is not quite 1, which matters where p is nearly all on one token.
    """
    return (total / p.sum(-1))[:, None]
