"""A loss of next-token logits that never holds the logits of more than a chunk of positions.

Logits, loss and gradients are made in the forward pass from the last hidden states, one chunk of
positions after the other, as Liger's fused losses do it (https://arxiv.org/abs/2410.10989).

Logits are accumulated and kept in float32, also under autocast: rounded to bfloat16, they would
differ from the teacher's by more than student and teacher do where a distillation succeeds.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

from sweeper.distillation.models.lm_head import (
    LMHead,
    add_product,
    computing_dtype,
    product_dtype,
    project,
)
from sweeper.records import loss_chunks

BUDGET = loss_chunks.LEAST
"""Bytes that the logits of one chunk of positions may take, both models' together."""


def chunk_budget(device: torch.device, coming: int = 0) -> int:
    """Return the bytes for the logits of a chunk that suit the memory that is free now.

    Args:
        device: Device of the logits. On others than CUDA's it is ``BUDGET``.
        coming: Bytes that the training will take for good and does not have yet.
    """
    if device.type != "cuda":
        return BUDGET
    cuda = torch.cuda
    free, total = cuda.mem_get_info(device)
    used = cuda.memory_allocated(device)
    # What the process has reserved and does not use, and its share of a device that has others.
    free += cuda.memory_reserved(device) - used
    allowed = cuda.get_per_process_memory_fraction(device) * total - used
    return loss_chunks.chunk_budget(max(0, min(free, allowed) - coming))


class Objective(Protocol):
    """What the logits are compared with, chunk by chunk."""

    def chunk(self, rows: slice, vocabulary: int, device: torch.device) -> Tensor:
        """Return the targets of some positions, on ``device``.

        Args:
            rows: Positions of the chunk.
            vocabulary: Number of the student's logits.
            device: Device of the student's logits.
        """

    def into_gradient(self, logits: Tensor, targets: Tensor, rows: slice, work: Tensor) -> Tensor:
        """Return the loss of each position, and turn ``logits`` into its gradient in place.

        Args:
            logits: The student's logits (positions × vocabulary), at least float32.
            targets: Rows of what ``chunk`` returned.
            rows: These positions among all.
            work: Scratch space of three times the logits' shape.
        """


def chunked_loss(
    states: Tensor, head: LMHead, objective: Objective, *, budget: int = BUDGET
) -> Tensor:
    """Return the objective in nats, summed over positions.

    It is computed in float32 (float64 for float64 models). Its gradients are found with it, so
    they can be had once: a second backward pass through it is an error. Call it under the autocast
    that the states were made under.

    Args:
        states: The student's states, from ``head.states``.
        head: How the student's logits are made of them.
        objective: What the logits are compared with.
        budget: Bytes that the logits of one chunk may take. Less takes longer, for every chunk
            reads the heads again.
    """
    layer = head.head
    weight, bias = (None, None) if layer is None else (layer.weight, layer.bias)
    loss: Tensor = _ChunkedLoss.apply(  # type: ignore[no-untyped-call]
        states, weight, bias, (head.scale, head.cap), objective, budget, torch.is_grad_enabled()
    )
    return loss


class _ChunkedLoss(torch.autograd.Function):
    """The autograd function of ``chunked_loss``; states are N × d or, without a head, N × V."""

    @staticmethod
    def forward(
        ctx: Any,
        states: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        end: tuple[float, float | None],
        objective: Objective,
        budget: int,
        graded: bool,
    ) -> Tensor:
        """Return the sum over positions; the gradients wait in ``ctx``."""
        to_states, to_weight, to_bias = (graded and need for need in ctx.needs_input_grad[:3])
        device = (states if weight is None else weight).device
        dtype = states.dtype if weight is None else computing_dtype(weight)
        exact = torch.promote_types(dtype, torch.float32)
        hidden = states.to(device, dtype)
        vocabulary = states.shape[1] if weight is None else len(weight)
        # Rounded as ``LMHead.logits`` does it; converted once, not for each chunk.
        matrix = None if weight is None else weight.to(dtype).to(product_dtype(hidden))

        row = vocabulary * exact.itemsize
        rows = loss_chunks.rows_of_chunk(len(states), row, budget)
        alone = device.type == "cpu" and torch.get_num_threads() == 1
        block = loss_chunks.rows_of_block(rows, row, budget, cached=alone)
        work = torch.empty(3, block, vocabulary, dtype=exact, device=device)
        losses = torch.empty(len(states), dtype=exact, device=device)
        grad_states = torch.empty_like(states) if to_states else None
        grad_weight = (
            None if weight is None or not to_weight else torch.zeros_like(weight, dtype=exact)
        )
        grad_bias = None if bias is None or not to_bias else torch.zeros_like(bias, dtype=exact)

        for start in range(0, len(states), rows):
            chunk = slice(start, start + rows)
            targets = objective.chunk(chunk, vocabulary, device)
            with torch.autocast(device.type, enabled=False):
                if matrix is None:
                    logits = hidden[chunk].to(exact, copy=True)
                else:
                    logits = project(hidden[chunk], matrix, bias)
                for first in range(0, len(logits), block):
                    part = slice(first, first + block)
                    place = slice(start + first, start + min(first + block, len(logits)))
                    losses[place] = _through_end(
                        logits[part], targets[part], place, end, objective, work
                    )
                # What is in ``logits`` by now is the loss's gradient with respect to them.
                grads = logits if matrix is None else logits.to(matrix.dtype)
                if grad_states is not None:
                    grad_states[chunk] = (grads if matrix is None else grads @ matrix).to(states)
                if grad_weight is not None:
                    add_product(grad_weight, grads.t(), hidden[chunk])
                if grad_bias is not None:
                    grad_bias += logits.sum(0)
            # Free them before the next chunk's are made.
            del targets, logits, grads
        ctx.save_for_backward(
            grad_states,
            None if grad_weight is None else grad_weight.to(weight),
            None if grad_bias is None else grad_bias.to(bias),
        )
        return losses.sum()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients that the forward pass has found, scaled."""
        # In place, for the weight's is as large as the weight; autograd refuses a second time.
        grads = [grad if grad is None else grad.mul_(grad_output) for grad in ctx.saved_tensors]
        return (*grads, None, None, None, None)


def _through_end(
    logits: Tensor,
    targets: Tensor,
    rows: slice,
    end: tuple[float, float | None],
    objective: Objective,
    work: Tensor,
) -> Tensor:
    """Return the objective of scaled and capped logits, with gradients before scale and cap."""
    work, (scale, cap) = work[:, : len(logits)], end
    if scale != 1:
        logits.mul_(scale)
    if cap is None:
        losses = objective.into_gradient(logits, targets, rows, work)
    else:
        logits.div_(cap).tanh_()
        slope = (logits * logits).neg_().add_(1)
        logits.mul_(cap)
        losses = objective.into_gradient(logits, targets, rows, work)
        logits.mul_(slope)
    if scale != 1:
        logits.mul_(scale)
    return losses
