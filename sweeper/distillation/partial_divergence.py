"""Losses that read a part of the teacher's distribution: its k most likely tokens, or one token.

**Top k.** The teacher's k most likely tokens keep their probabilities, and all others are one
outcome, the rest. Between these k + 1 outcomes the loss is the generalized Jensen–Shannon
divergence of ``divergence``. Merging outcomes never enlarges it (the data-processing inequality),
so it is a lower bound of the exact divergence and equals it when k is the vocabulary. Without the
rest it would be no divergence: a student could leave the k tokens at no cost.

The rest's logit is the log-sum-exp over the other tokens. So with g, the gradient with respect to
the k + 1 logits, that of token i is g_i among the k, and g_rest p_i / p_rest among the others.

**Sampled.** For the reverse KL, KL(p‖q) = E[log p(x) - log q(x)] over tokens x of the student's
distribution p. Its gradient is E[(log p(x) - log q(x)) ∇ log p(x)], because E[∇ log p(x)] = 0. One
token that the student sampled gives an unbiased estimate of both. It is the policy gradient of
"On-Policy Distillation" (https://thinkingmachines.ai/blog/on-policy-distillation/, 2025), and
estimates the single-step part of MiniLLM's (https://arxiv.org/abs/2306.08543). The value is k1 of
http://joschu.net/blog/kl-approx.html, whose own gradient, ∇ log p(x), is 0 on average: so value and
gradient are computed apart. Tokens sampled at another temperature than 1 come from another
distribution r; they count p(x) / r(x) times, which keeps both estimates unbiased.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sweeper.distillation.chunked_loss import BUDGET, chunked_loss
from sweeper.distillation.divergence import Heads, check_divergence, divergence_into_gradient
from sweeper.distillation.models.lm_head import LMHead
from sweeper.distillation.sampled_tokens import SampledTokens


@dataclass(frozen=True)
class TokenLogProbs:
    """What a teacher reports of some tokens at each position.

    Attributes:
        ids: Distinct tokens of each position (positions × k), within the student's vocabulary. A
            position with fewer has -1 after them; it has one at least.
        log_probs: Their log-probabilities in nats (positions × k), at temperature 1 and over the
            whole vocabulary: they do not add up to 1. -inf where there is no token.
    """

    ids: Tensor
    log_probs: Tensor

    def __post_init__(self) -> None:
        """Check the shapes."""
        if self.ids.ndim != 2 or self.ids.shape != self.log_probs.shape:
            shapes = f"{tuple(self.ids.shape)} and {tuple(self.log_probs.shape)}"
            raise ValueError(f"ids and log_probs must be positions × k, but got {shapes}")


def top_k_divergence(
    ours: Tensor,
    head: LMHead,
    teacher: TokenLogProbs,
    beta: float,
    *,
    sampled: SampledTokens | None = None,
    budget: int = BUDGET,
) -> Tensor:
    """Return the divergence on the reported tokens and the rest in nats, summed over positions.

    The teacher's rest is 1 minus the sum of the reported probabilities, and at least 1.2e-7: in
    float32, less cannot be told from rounding.

    Args:
        ours: States of the student, from ``head.states``.
        head: Head of the student.
        teacher: The teacher's most likely tokens at the same positions.
        beta: Interpolation, as ``Heads.divergence`` has it.
        sampled: Tokens at the positions, whose student's sums are collected.
        budget: Bytes that the logits of one chunk may take.

    Raises:
        ValueError: beta is outside, or the numbers of positions do not match.
    """
    check_divergence(beta, len(ours), len(teacher.ids))
    return chunked_loss(ours, head, _Reported(teacher, float(beta), sampled), budget=budget)


def top_k_divergence_of(
    heads: Heads,
    ours: Tensor,
    theirs: Tensor,
    beta: float,
    k: int,
    *,
    sampled: SampledTokens | None = None,
    budget: int = BUDGET,
) -> Tensor:
    """Return the divergence on the teacher's k most likely tokens and the rest, as above.

    The teacher is at hand, so its rest, and the sums of ``sampled``, are exact.

    Args:
        heads: Heads of both models.
        ours: States of the student.
        theirs: States of the teacher at the same positions; they get no gradient.
        beta: Interpolation, as ``Heads.divergence`` has it.
        k: Number of tokens, from 1 to the vocabulary.
        sampled: Tokens at the positions, whose sums are collected.
        budget: Bytes that the logits of one chunk may take.

    Raises:
        ValueError: beta or k is outside, or the numbers of positions or of logits do not match.
    """
    check_divergence(beta, len(ours), len(theirs))
    objective = _TopK(heads, theirs.detach(), float(beta), k, sampled)
    return chunked_loss(ours, heads.student, objective, budget=budget)


def sampled_divergence(
    ours: Tensor,
    head: LMHead,
    teacher: TokenLogProbs,
    *,
    temperature: float = 1.0,
    sampled: SampledTokens | None = None,
    budget: int = BUDGET,
) -> Tensor:
    """Return the estimate of KL(student‖teacher) in nats, summed over positions.

    It may be negative. Its gradient is the estimate of the KL's gradient, not that of this value.

    Args:
        ours: States of the student, from ``head.states``.
        head: Head of the student.
        teacher: The tokens that the student sampled (k = 1) at the same positions.
        temperature: Temperature that they were sampled at.
        sampled: The same tokens, whose student's sums are collected.
        budget: Bytes that the logits of one chunk may take.

    Raises:
        ValueError: There is not one token for each position.
    """
    if len(ours) != len(teacher.ids) or teacher.ids.shape[1] != 1:
        found = f"{len(ours)} positions and {tuple(teacher.ids.shape)} tokens"
        raise ValueError(f"every position must have one token, but got {found}")
    objective = _ReportedSample(teacher, temperature, sampled)
    return chunked_loss(ours, head, objective, budget=budget)


def sampled_divergence_of(
    heads: Heads,
    ours: Tensor,
    theirs: Tensor,
    sampled: SampledTokens,
    *,
    temperature: float = 1.0,
    budget: int = BUDGET,
) -> Tensor:
    """Return the estimate of KL(student‖teacher), as above, of a teacher that is at hand.

    Args:
        heads: Heads of both models.
        ours: States of the student.
        theirs: States of the teacher at the same positions; they get no gradient.
        sampled: Tokens that the student sampled there, whose sums are collected.
        temperature: Temperature that they were sampled at.
        budget: Bytes that the logits of one chunk may take.

    Raises:
        ValueError: The numbers of positions or of logits do not match.
    """
    if not len(ours) == len(theirs) == len(sampled.tokens):
        counts = f"{len(ours)}, {len(theirs)} and {len(sampled.tokens)}"
        raise ValueError(f"positions must match, but got {counts}")
    objective = _Sample(heads, theirs.detach(), sampled, temperature)
    return chunked_loss(ours, heads.student, objective, budget=budget)


@dataclass(frozen=True)
class _Reported:
    """The objective of ``top_k_divergence``."""

    teacher: TokenLogProbs
    beta: float
    sampled: SampledTokens | None

    def chunk(self, rows: slice, vocabulary: int, device: torch.device) -> Tensor:
        """Return the log-probabilities of the tokens and, last, of the rest."""
        known = self.teacher.log_probs[rows].to(device)
        known = known.to(torch.promote_types(known.dtype, torch.float32))
        least = torch.finfo(torch.float32).eps
        rest = (-known.logsumexp(-1, keepdim=True).clamp(max=-least).expm1()).log()
        reported = (self.teacher.ids[rows] >= 0).sum(-1, keepdim=True).to(device)
        return torch.cat([known, rest.masked_fill(reported == vocabulary, -torch.inf)], -1)

    def into_gradient(self, logits: Tensor, targets: Tensor, rows: slice, work: Tensor) -> Tensor:
        """Return the divergence of each position; ``logits`` become its gradient."""
        if self.sampled is not None:
            _watch_student(self.sampled, rows, logits, work)
        ids = self.teacher.ids[rows].to(logits.device, torch.int64)
        missing = ids < 0
        # Any reported token may stand in for one that is not there: it is not counted twice.
        ids = torch.where(missing, ids[:, :1], ids)
        return _merged(logits, ids, targets.to(logits.dtype), self.beta, work[0], missing)


@dataclass(frozen=True)
class _TopK:
    """The objective of ``top_k_divergence_of``."""

    heads: Heads
    theirs: Tensor
    beta: float
    k: int
    sampled: SampledTokens | None

    def chunk(self, rows: slice, vocabulary: int, device: torch.device) -> Tensor:
        """Return the teacher's logits."""
        if not 1 <= self.k <= vocabulary:
            raise ValueError(f"k must be in [1, {vocabulary}], but got {self.k}")
        return self.heads.teacher_logits(self.theirs[rows], vocabulary, device)

    def into_gradient(self, logits: Tensor, targets: Tensor, rows: slice, work: Tensor) -> Tensor:
        """Return the divergence of each position; ``logits`` become its gradient."""
        teacher = targets.to(logits.dtype)
        if self.sampled is not None:
            _watch(self.sampled, rows, logits, teacher, work)
        ids = teacher.topk(self.k, dim=-1, sorted=False).indices
        outcomes, _ = _with_rest(teacher, ids, scratch=work[0])
        return _merged(logits, ids, outcomes, self.beta, work[0])


@dataclass(frozen=True)
class _ReportedSample:
    """The objective of ``sampled_divergence``."""

    teacher: TokenLogProbs
    temperature: float
    sampled: SampledTokens | None

    def chunk(self, rows: slice, vocabulary: int, device: torch.device) -> Tensor:
        """Return the log-probabilities of the sampled tokens."""
        return self.teacher.log_probs[rows].to(device)

    def into_gradient(self, logits: Tensor, targets: Tensor, rows: slice, work: Tensor) -> Tensor:
        """Return the estimate of each position; ``logits`` become that of its gradient."""
        if self.sampled is not None:
            _watch_student(self.sampled, rows, logits, work)
        ids = self.teacher.ids[rows].to(logits.device, torch.int64)
        return _policy_gradient(logits, ids, targets.to(logits.dtype), self.temperature, work)


@dataclass(frozen=True)
class _Sample:
    """The objective of ``sampled_divergence_of``."""

    heads: Heads
    theirs: Tensor
    sampled: SampledTokens
    temperature: float

    def chunk(self, rows: slice, vocabulary: int, device: torch.device) -> Tensor:
        """Return the teacher's logits."""
        return self.heads.teacher_logits(self.theirs[rows], vocabulary, device)

    def into_gradient(self, logits: Tensor, targets: Tensor, rows: slice, work: Tensor) -> Tensor:
        """Return the estimate of each position; ``logits`` become that of its gradient."""
        teacher = targets.to(logits.dtype)
        _watch(self.sampled, rows, logits, teacher, work)
        ids = self.sampled.tokens[rows].to(logits.device)[:, None]
        log_q = torch.log_softmax(teacher, -1, out=work[0]).gather(-1, ids)
        return _policy_gradient(logits, ids, log_q, self.temperature, work)


def _watch(sampled: SampledTokens, rows: slice, z: Tensor, teacher: Tensor, work: Tensor) -> None:
    """Add the sums of some positions, and leave the logits as they are."""
    p = torch.softmax(z, -1, out=work[0])
    q = torch.softmax(teacher, -1, out=work[1])
    sampled.add(rows, z, teacher, p, q, scratch=work[2])


def _watch_student(sampled: SampledTokens, rows: slice, z: Tensor, work: Tensor) -> None:
    """Add the student's sums of some positions, and leave the logits as they are."""
    p = torch.softmax(z, -1, out=work[0])
    sampled.add_student(rows, z, p, scratch=work[1])


def _with_rest(
    z: Tensor, ids: Tensor, missing: Tensor | None = None, *, scratch: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the logits of tokens and, last, of the rest; and a sum over the rest.

    Args:
        z: Logits (positions × vocabulary).
        ids: Tokens (positions × k).
        missing: True where no token is meant; its logit is -inf.
        scratch: Space of the logits' shape. It becomes exp(z - their largest) at all other tokens,
            and 0 at these; the sum is over it. It is 0 where no other token is possible, and
            otherwise at least 1.
    """
    others = scratch.copy_(z).scatter_(-1, ids, -torch.inf)
    largest = others.amax(-1, keepdim=True).clamp_(min=torch.finfo(z.dtype).min)
    total = others.sub_(largest).exp_().sum(-1, keepdim=True)
    chosen = z.gather(-1, ids)
    if missing is not None:
        chosen.masked_fill_(missing, -torch.inf)
    return torch.cat([chosen, largest + total.log()], -1), total


def _merged(
    z: Tensor,
    ids: Tensor,
    teacher: Tensor,
    beta: float,
    scratch: Tensor,
    missing: Tensor | None = None,
) -> Tensor:
    """Return the divergence on tokens and the rest; turn ``z`` into its gradient.

    Args:
        z: Logits of the student (positions × vocabulary).
        ids: Tokens (positions × k).
        teacher: Logits of the teacher at these tokens and, last, of its rest.
        beta: Interpolation, as ``Heads.divergence`` has it.
        scratch: Space of the logits' shape.
        missing: True where no token is meant.
    """
    outcomes, total = _with_rest(z, ids, missing, scratch=scratch)
    work = torch.empty(3, *outcomes.shape, dtype=z.dtype, device=z.device)
    divergence = divergence_into_gradient(outcomes, teacher, beta, work)
    torch.mul(scratch, outcomes[:, -1:] / total.clamp(min=1), out=z)
    # It is 0 at these tokens; where none is meant, so is what is added.
    z.scatter_add_(-1, ids, outcomes[:, :-1])
    return divergence


def _policy_gradient(
    z: Tensor, ids: Tensor, log_q: Tensor, temperature: float, work: Tensor
) -> Tensor:
    """Return estimates of KL(p‖q); turn ``z`` into those of its gradient.

    Args:
        z: Logits of the student (positions × vocabulary).
        ids: Tokens that the student sampled (positions × 1).
        log_q: The teacher's log-probabilities of them.
        temperature: Temperature that they were sampled at.
        work: Scratch space of three times the logits' shape.
    """
    every = torch.log_softmax(z, -1, out=work[0])
    log_p = every.gather(-1, ids)
    estimate = log_p - log_q
    if temperature != 1:
        tempered = torch.log_softmax(z.div_(temperature), -1, out=work[1]).gather(-1, ids)
        estimate.mul_((log_p - tempered).exp_())
    torch.exp(every, out=z).mul_(-estimate)
    z.scatter_add_(-1, ids, estimate)
    return estimate[:, 0]
