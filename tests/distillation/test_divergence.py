"""The divergence against TRL's own, computed in float64 on the same numbers."""

from __future__ import annotations

import gc
import warnings
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from sweeper.distillation.divergence import Heads
from sweeper.distillation.models.lm_head import LMHead
from sweeper.distillation.sampled_tokens import SampledTokens

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from trl.experimental.gkd import GKDTrainer
    from trl.kernels.chunked_divergence import ChunkedDivergenceFunction

BETAS = [0.0, 0.01, 0.5, 0.99, 1.0]
POSITIONS, OUR_WIDTH, THEIR_WIDTH, VOCABULARY = 5, 6, 8, 37


def as_heads(ours: nn.Module, theirs: nn.Module, **changes: Any) -> Heads:
    """Heads alone, for states that a test makes up."""
    return Heads(LMHead(None, head=ours), LMHead(None, head=theirs), **changes)


class Pair:
    """Random states and heads. A small ``gap`` makes the two distributions nearly the same."""

    def __init__(
        self,
        positions: int = POSITIONS,
        vocabulary: int = VOCABULARY,
        *,
        bias: bool = False,
        size: float = 2.0,
        gap: float | None = None,
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.head = nn.Linear(OUR_WIDTH, vocabulary, bias=bias)
            width = THEIR_WIDTH if gap is None else OUR_WIDTH
            self.teacher_head = nn.Linear(width, vocabulary, bias=bias)
            self.ours = torch.randn(positions, OUR_WIDTH) * size
            self.theirs = torch.randn(positions, width) * size
            if gap is not None:
                self.teacher_head.load_state_dict(self.head.state_dict())
                self.theirs = self.ours + gap * self.theirs
        self.to(dtype)
        self.teacher_head.requires_grad_(False)

    def to(self, dtype: torch.dtype) -> Pair:
        self.head.to(dtype)
        self.teacher_head.to(dtype)
        self.ours = self.ours.to(dtype).detach().requires_grad_()
        self.theirs = self.theirs.to(dtype)
        return self

    def leaves(self) -> list[Tensor]:
        return [self.ours, *(p for p in self.head.parameters() if p.requires_grad)]

    def mine(self, beta: float, **options: Any) -> list[Tensor]:
        heads = as_heads(self.head, self.teacher_head)
        return graded(heads.divergence(self.ours, self.theirs, beta, **options), self.leaves())

    def stock(self, beta: float) -> list[Tensor]:
        loss = stock(self.head(self.ours), self.teacher_head(self.theirs), beta)
        return graded(loss, self.leaves())

    def exact(self, beta: float) -> list[Tensor]:
        """The reference: stock in float64. Comes last: the pair stays in float64."""
        return self.to(torch.float64).stock(beta)


def graded(loss: Tensor, leaves: list[Tensor]) -> list[Tensor]:
    """The loss and its gradients."""
    return [loss.detach(), *torch.autograd.grad(loss, leaves)]


def stock(ours: Tensor, theirs: Tensor, beta: float) -> Tensor:
    loss: Tensor = GKDTrainer.generalized_jsd_loss(ours, theirs, beta=beta, reduction="sum")
    return loss


def off(one: Tensor, other: Tensor) -> float:
    """The relative distance to ``other``."""
    distance = (one.double() - other.double()).norm()
    return float(distance / other.double().norm().clamp(min=1e-30))


betas = st.sampled_from(BETAS) | st.floats(0.001, 0.999)
pairs = st.builds(
    Pair,
    positions=st.integers(1, 9),
    vocabulary=st.integers(2, 60),
    bias=st.booleans(),
    size=st.sampled_from([0.1, 1.0, 4.0]),
    gap=st.sampled_from([None, 1.0, 0.1]),
    seed=st.integers(0, 10**6),
)
examples = settings(derandomize=True, max_examples=120, deadline=None)


@given(pairs, betas)
@examples
def test_float32_is_as_exact_as_stock(pair: Pair, beta: float) -> None:
    mine, theirs, exact = pair.mine(beta), pair.stock(beta), pair.exact(beta)
    # Less than the last one, in nats, is chance: the logits are rounded.
    chance = 1e-7 * len(pair.ours)
    assert (mine[0] - exact[0]).abs() <= max(
        (theirs[0] - exact[0]).abs(), 1e-5 * exact[0], torch.tensor(chance)
    )
    for ours, reference in zip(mine[1:], exact[1:], strict=True):
        assert off(ours, reference) <= 1e-3
        assert (ours - reference).abs().max() <= 1e-3 * reference.abs().max()


@given(pairs, betas, st.integers(1, 4000))
@examples
def test_the_chunks_do_not_matter(pair: Pair, beta: float, budget: int) -> None:
    # In float64: of models that nearly agree, float32 leaves nothing but rounding, which depends on
    # the processor and on where numbers lie in memory.
    pair.to(torch.float64)
    for ours, whole in zip(pair.mine(beta, budget=budget), pair.mine(beta), strict=True):
        assert off(ours, whole) < 1e-5


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("beta", BETAS)
def test_a_vocabulary_of_several_blocks(beta: float, threads: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        pair = Pair(300, 5000)
        for ours, reference in zip(
            pair.mine(beta, budget=2 * 128 * 5000 * 4), pair.exact(beta), strict=True
        ):
            assert off(ours, reference) < 1e-5
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("beta", BETAS)
@pytest.mark.parametrize("gap", [1e-2, 1e-3])
def test_models_that_are_nearly_the_same(gap: float, beta: float) -> None:
    """Where stock takes differences of large numbers, and can be wrong altogether."""
    pair = Pair(64, 500, gap=gap)
    mine, theirs, exact = pair.mine(beta), pair.stock(beta), pair.exact(beta)
    assert off(mine[0], exact[0]) <= max(0.5 * off(theirs[0], exact[0]), 1e-4)
    assert all(off(*each) < 1e-3 for each in zip(mine[1:], exact[1:], strict=True))


@pytest.mark.parametrize("beta", BETAS)
@pytest.mark.parametrize("budget", [1, 2**28])
def test_bfloat16_is_no_worse_than_stock(beta: float, budget: int) -> None:
    pair = Pair(40, 500, bias=True, dtype=torch.bfloat16)
    mine, theirs, exact = pair.mine(beta, budget=budget), pair.stock(beta), pair.exact(beta)
    assert all(grad.dtype == torch.bfloat16 for grad in mine[1:])
    for ours, stocks, reference in zip(mine, theirs, exact, strict=True):
        # Both gradients are stored in bfloat16: that much is chance.
        assert off(ours, reference) <= max(1.05 * off(stocks, reference), 2**-9)


def test_bfloat16_gradients_do_not_swallow_what_a_chunk_adds() -> None:
    pair = Pair(600, 50, dtype=torch.bfloat16)
    assert off(pair.mine(0.5, budget=1)[2], pair.mine(0.5)[2]) < 5e-3


@pytest.mark.parametrize("beta", BETAS)
def test_a_student_that_is_nearly_certain(beta: float) -> None:
    """All but one token have little, and its gradient is as little, whatever the rounding."""
    generator = torch.Generator().manual_seed(0)
    ours, theirs = torch.randn(2, 8, 5000, generator=generator)
    ours[:, 0] += 16
    heads = Heads(LMHead(None), LMHead(None))
    ours.requires_grad_()
    mine = graded(heads.divergence(ours, theirs, beta), [ours])
    wide = ours.detach().double().requires_grad_()
    exact = graded(stock(wide, theirs.double(), beta), [wide])
    assert all(off(*each) < 1e-4 for each in zip(mine, exact, strict=True))


@pytest.mark.parametrize("beta", BETAS)
def test_a_bfloat16_teacher_of_a_float32_student(beta: float) -> None:
    pair = Pair()
    pair.teacher_head.bfloat16()
    theirs = pair.theirs.bfloat16()
    heads = as_heads(pair.head, pair.teacher_head)
    mine = graded(heads.divergence(pair.ours, theirs, beta), pair.leaves())
    same = graded(
        stock(pair.head(pair.ours), theirs.float() @ pair.teacher_head.weight.float().T, beta),
        pair.leaves(),
    )
    assert all(off(*each) < 1e-5 for each in zip(mine, same, strict=True))


class _Again(torch.autograd.Function):
    """Evaluates anew in each backward pass, which a divergence allows only once."""

    @staticmethod
    def forward(ctx: Any, function: Any, *inputs: Tensor) -> Tensor:
        ctx.function, ctx.inputs = function, inputs
        return function(*inputs).detach()

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> Any:
        with torch.enable_grad():
            loss = ctx.function(*ctx.inputs)
        return None, *torch.autograd.grad(loss, ctx.inputs, grad_output)


@pytest.mark.parametrize("beta", [0.0, 0.01, 0.3, 0.99, 1.0])
@pytest.mark.parametrize("cap", [None, 0.7])
def test_the_gradient_is_that_of_the_loss(beta: float, cap: float | None) -> None:
    pair = Pair(3, 7, bias=True, size=1.0, dtype=torch.float64)
    heads = as_heads(pair.head, pair.teacher_head)
    heads = replace(heads, student=replace(heads.student, cap=cap))

    def divergence(states: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        head = nn.Linear(OUR_WIDTH, 7).requires_grad_(weight.requires_grad)
        del head.weight, head.bias
        head.weight, head.bias = weight, bias
        return replace(heads, student=replace(heads.student, head=head)).divergence(
            states, pair.theirs, beta, budget=1
        )

    def again(*inputs: Tensor) -> Tensor:
        result: Tensor = _Again.apply(divergence, *inputs)
        return result

    assert torch.autograd.gradcheck(again, (pair.ours, pair.head.weight, pair.head.bias))


@pytest.mark.parametrize("beta", BETAS)
def test_logits_in_place_of_hidden_states(beta: float) -> None:
    """What models whose logits are not their head's fall back to."""
    pair = Pair(dtype=torch.float64)
    logits = pair.head(pair.ours)
    theirs = pair.teacher_head(pair.theirs)
    before = logits.detach().clone(), theirs.clone()
    heads = Heads(LMHead(None), LMHead(None))
    loss = heads.divergence(logits, theirs, beta, budget=2 * 2 * VOCABULARY * 8)
    assert torch.equal(logits, before[0])
    assert torch.equal(theirs, before[1])
    mine = graded(loss, pair.leaves())
    assert all(off(*each) < 1e-9 for each in zip(mine, pair.stock(beta), strict=True))


@pytest.mark.parametrize("beta", BETAS)
def test_capped_logits(beta: float) -> None:
    pair = Pair(bias=True)
    heads = as_heads(pair.head, pair.teacher_head)
    heads = Heads(replace(heads.student, cap=1.5), replace(heads.teacher, cap=2.5))
    mine = graded(heads.divergence(pair.ours, pair.theirs, beta), pair.leaves())
    pair.to(torch.float64)
    ours, theirs = pair.head(pair.ours), pair.teacher_head(pair.theirs)
    exact = graded(
        stock(1.5 * (ours / 1.5).tanh(), 2.5 * (theirs / 2.5).tanh(), beta), pair.leaves()
    )
    assert all(off(*each) < 1e-5 for each in zip(mine, exact, strict=True))


@pytest.mark.parametrize("beta", BETAS)
def test_identical_distributions_have_no_divergence_and_no_gradient(beta: float) -> None:
    pair = Pair(gap=0.0, size=10.0)
    loss, *grads = pair.mine(beta)
    assert loss == 0
    assert all(not grad.any() for grad in grads)


@pytest.mark.parametrize("beta", BETAS)
@pytest.mark.parametrize("size", [1e2, 1e4, 1e6])
def test_extreme_logits(size: float, beta: float) -> None:
    """Probabilities underflow in both, and what does counts for nothing."""
    pair = Pair(size=size)
    mine, exact = pair.mine(beta), pair.exact(beta)
    assert off(mine[0], exact[0]) < 1e-5
    for ours, reference in zip(mine[1:], exact[1:], strict=True):
        # Nearly certain distributions have nearly no gradients, which are nothing but rounding.
        assert (ours - reference).norm() <= 1e-3 * reference.norm() + 1e-7 * size


@pytest.mark.parametrize("beta", BETAS)
def test_tokens_that_both_rule_out(beta: float) -> None:
    pair = Pair()
    ours, theirs = pair.head(pair.ours).detach(), pair.teacher_head(pair.theirs)
    masked = [logits.clone() for logits in (ours, theirs)]
    for logits in masked:
        logits[:, 3] = -torch.inf
    keep = [index for index in range(VOCABULARY) if index != 3]
    heads = Heads(LMHead(None), LMHead(None))
    masked[0].requires_grad_()
    loss, grad = graded(heads.divergence(masked[0], masked[1], beta), masked[:1])
    rest = ours[:, keep].requires_grad_()
    same, its_grad = graded(heads.divergence(rest, theirs[:, keep], beta), [rest])
    assert off(loss, same) < 1e-5
    assert off(grad[:, keep], its_grad) < 1e-5
    assert grad[:, 3].abs().max() < 1e-30


@pytest.mark.parametrize("beta", BETAS)
@pytest.mark.parametrize("whose", ["ours", "theirs"])
def test_tokens_that_one_rules_out(whose: str, beta: float) -> None:
    pair = Pair()
    states = {"ours": pair.head(pair.ours).detach(), "theirs": pair.teacher_head(pair.theirs)}
    states[whose][:, 3] = -torch.inf
    ours = states["ours"].requires_grad_()
    loss, grad = graded(
        Heads(LMHead(None), LMHead(None)).divergence(ours, states["theirs"], beta), [ours]
    )
    if (whose, beta) in (("ours", 0), ("theirs", 1)):
        assert loss == torch.inf
    else:
        assert loss.isfinite()
        assert grad.isfinite().all()


@pytest.mark.parametrize("beta", BETAS)
@pytest.mark.parametrize("whose", ["ours", "theirs"])
def test_what_is_not_a_number_shows(whose: str, beta: float) -> None:
    pair = Pair()
    with torch.no_grad():
        getattr(pair, whose)[1, 2] = torch.nan
    assert pair.mine(beta)[0].isnan()


@pytest.mark.parametrize("beta", [1e-12, 1 - 1e-12])
def test_next_to_an_end(beta: float) -> None:
    loss, *grads = Pair(size=1e3).mine(beta)
    assert 0 <= loss < 1e-6
    assert all(grad.isfinite().all() for grad in grads)


def test_a_frozen_head_gets_no_gradient_and_costs_none() -> None:
    pair = Pair(bias=True)
    whole = pair.mine(0.5)
    pair.head.requires_grad_(False)
    frozen = pair.mine(0.5)
    assert len(frozen) == 2
    assert all(torch.equal(*each) for each in zip(frozen, whole, strict=False))
    loss = as_heads(pair.head, pair.teacher_head).divergence(pair.ours, pair.theirs, 0.5)
    assert [grad is None for grad in loss.grad_fn.saved_tensors] == [False, True, True]
    loss.backward()
    assert pair.head.weight.grad is None


def test_nothing_as_wide_as_the_vocabulary_is_kept() -> None:
    pair = Pair(vocabulary=1013)
    loss = as_heads(pair.head, pair.teacher_head).divergence(pair.ours, pair.theirs, 0.5)
    kept = [grad for grad in loss.grad_fn.saved_tensors if grad is not None]
    assert [grad.shape for grad in kept] == [pair.ours.shape, pair.head.weight.shape]
    gc.collect()
    tensors = [thing for thing in gc.get_objects() if issubclass(type(thing), Tensor)]
    assert not [tensor.shape for tensor in tensors if tensor.shape[-1:] == (1013,)]


@pytest.mark.parametrize("beta", BETAS)
def test_without_gradients_there_is_only_the_value(beta: float) -> None:
    pair = Pair()
    heads = as_heads(pair.head, pair.teacher_head)
    with torch.no_grad():
        value = heads.divergence(pair.ours, pair.theirs, beta)
    assert not value.requires_grad
    assert torch.equal(value, pair.mine(beta)[0])


def test_gradients_accumulate_and_scale() -> None:
    pair = Pair()
    heads = as_heads(pair.head, pair.teacher_head)
    _, *grads = pair.mine(0.5)
    for scale in (0.25, 2.0):
        (heads.divergence(pair.ours, pair.theirs, 0.5) * scale).backward()
    for leaf, grad in zip(pair.leaves(), grads, strict=True):
        assert off(leaf.grad, 2.25 * grad) < 1e-6  # type: ignore[arg-type]


def test_a_second_backward_pass_is_refused() -> None:
    pair = Pair()
    loss = as_heads(pair.head, pair.teacher_head).divergence(pair.ours, pair.theirs, 0.5)
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_no_positions() -> None:
    pair = Pair(0)
    loss = as_heads(pair.head, pair.teacher_head).divergence(pair.ours, pair.theirs, 0.5)
    assert loss == 0
    loss.backward()
    assert pair.ours.grad is not None


@pytest.mark.parametrize("beta", BETAS)
def test_a_teachers_padded_vocabulary_is_cut_if_allowed(beta: float) -> None:
    pair = Pair(gap=1.0)
    padded = nn.Linear(OUR_WIDTH, VOCABULARY + 3, bias=False)
    with torch.no_grad():
        padded.weight[:VOCABULARY] = pair.teacher_head.weight
    heads = as_heads(pair.head, padded, cut=True)
    mine = graded(heads.divergence(pair.ours, pair.theirs, beta), pair.leaves())
    assert all(off(*each) < 1e-5 for each in zip(mine, pair.mine(beta), strict=True))
    with pytest.raises(ValueError, match="as many logits, but got 37 and 40"):
        replace(heads, cut=False).divergence(pair.ours, pair.theirs, beta)
    with pytest.raises(ValueError, match="as many logits, but got 40 and 37"):
        as_heads(padded, pair.head, cut=True).divergence(pair.ours, pair.theirs, beta)


def test_what_cannot_be() -> None:
    pair = Pair()
    with pytest.raises(ValueError, match=r"beta must be in \[0, 1\], but got 1.5"):
        pair.mine(1.5)
    with pytest.raises(ValueError, match="positions must match, but got 5 and 4"):
        as_heads(pair.head, pair.teacher_head).divergence(pair.ours, pair.theirs[:4], 0.5)


@pytest.mark.parametrize("gap", [0.3, 0.03, 0.009])
@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0])
def test_in_bfloat16_logits_are_not_rounded_before_they_are_compared(
    gap: float, beta: float
) -> None:
    """Where a distillation succeeds, rounding would be more than what the two differ by."""
    pair = Pair(positions=64, vocabulary=512, gap=gap, size=3.0, dtype=torch.bfloat16)
    pair.theirs = (pair.ours.detach().float() + gap * torch.randn_like(pair.ours)).bfloat16()
    mine = [found.double() for found in pair.mine(beta)]
    exact = pair.exact(beta)
    # The gradients are rounded to bfloat16 at the end: to one part in 256.
    assert off(mine[0], exact[0]) < 1e-3
    assert all(off(*each) < 4e-3 for each in zip(mine[1:], exact[1:], strict=True))


@pytest.mark.parametrize("beta", BETAS)
@pytest.mark.parametrize("budget", [1, 2**28])
@pytest.mark.parametrize("ruled_out", [False, True])
def test_sums_over_sampled_tokens_are_exact_and_change_nothing(
    beta: float, budget: int, ruled_out: bool
) -> None:
    pair = Pair(positions=9, bias=True, size=4.0)
    if ruled_out:
        with torch.no_grad():
            pair.head.bias[3:6] = pair.teacher_head.bias[3:6] = -torch.inf
    tokens = torch.arange(9) * 4
    tokens[1] = 7
    sampled = SampledTokens.of(tokens)
    watched = pair.mine(beta, sampled=sampled, budget=budget)
    assert all(map(torch.equal, watched, pair.mine(beta, budget=budget)))
    pair.to(torch.float64)
    with torch.no_grad():
        ours = torch.distributions.Categorical(logits=pair.head(pair.ours))
        theirs = torch.distributions.Categorical(logits=pair.teacher_head(pair.theirs))
    entropies = [torch.special.entr(each.probs).sum() for each in (ours, theirs)]
    expected = torch.stack([*entropies, theirs.log_prob(tokens).sum()])
    torch.testing.assert_close(sampled.sums.double(), expected, rtol=1e-5, atol=1e-5)


def test_sampled_tokens_of_capped_and_cut_logits() -> None:
    """What is compared is what is measured: after the cap, over the tokens of both."""
    pair = Pair(positions=5)
    wide = nn.Linear(THEIR_WIDTH, VOCABULARY + 3, bias=False)
    heads = Heads(LMHead(None, head=pair.head, cap=0.7), LMHead(None, head=wide, cap=2.0), cut=True)
    sampled = SampledTokens.of(torch.arange(5))
    heads.divergence(pair.ours, pair.theirs, 0.5, sampled=sampled)
    with torch.no_grad():
        ours = ((pair.head(pair.ours) / 0.7).tanh() * 0.7).log_softmax(-1)
        theirs = ((wide(pair.theirs)[:, :VOCABULARY] / 2).tanh() * 2).log_softmax(-1)
    entropies = [-(each.exp() * each).sum() for each in (ours, theirs)]
    logprob = theirs.gather(-1, torch.arange(5)[:, None]).sum()
    torch.testing.assert_close(sampled.sums, torch.stack([*entropies, logprob]))


@pytest.mark.parametrize("beta", BETAS)
@pytest.mark.parametrize("gap", [None, 1e-2])
def test_trls_kernel_is_no_nearer_to_float64(beta: float, gap: float | None) -> None:
    pair = Pair(64, 500, bias=True, gap=gap)
    heads = (pair.head, pair.teacher_head)
    weights = [(head.weight, head.bias) for head in heads]
    found, _ = ChunkedDivergenceFunction.apply(
        pair.ours, *weights[0], pair.theirs, *weights[1], beta
    )
    theirs, mine = graded(found.sum(), pair.leaves()), pair.mine(beta)
    for one, other, exact in zip(mine, theirs, pair.exact(beta), strict=True):
        assert off(one, exact) <= off(other, exact) + 1e-5
        assert off(one, exact) < 2e-3


@pytest.mark.gpu
@pytest.mark.parametrize("beta", BETAS)
@pytest.mark.parametrize(("dtype", "most"), [(torch.float32, 1e-3), (torch.bfloat16, 1e-2)])
def test_on_a_gpu(beta: float, dtype: torch.dtype, most: float) -> None:
    """Chunks of any size give there what stock TRL gives in float64."""
    pair = Pair(300, 5000, bias=True, seed=3, dtype=dtype)
    exact = Pair(300, 5000, bias=True, seed=3, dtype=dtype).exact(beta)
    pair.head.cuda(), pair.teacher_head.cuda()
    pair.ours, pair.theirs = pair.ours.detach().cuda().requires_grad_(), pair.theirs.cuda()
    for budget in (1, 2 * 128 * 5000 * 4, 2**28):
        for found, wanted in zip(pair.mine(beta, budget=budget), exact, strict=True):
            assert off(found.cpu(), wanted) <= most
