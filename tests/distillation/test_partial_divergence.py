"""Losses of a part of the teacher's distribution, against their definitions in float64."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from sweeper.distillation.divergence import Heads
from sweeper.distillation.models.lm_head import LMHead
from sweeper.distillation.partial_divergence import (
    TokenLogProbs,
    sampled_divergence,
    sampled_divergence_of,
    top_k_divergence,
    top_k_divergence_of,
)
from sweeper.distillation.sampled_tokens import ReportedLogProbs, SampledTokens

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from trl.experimental.server_distillation import server_distillation_trainer as trl_trainer

BETAS = [0.0, 0.1, 0.5, 0.9, 1.0]
POSITIONS, VOCABULARY = 6, 29
BARE = LMHead(None)
"""Head of models whose states are their logits."""
HEADS = Heads(BARE, BARE)
examples = settings(derandomize=True, max_examples=80, deadline=None)


@dataclass
class Case:
    """Logits of a student and a teacher; ``size`` makes them flat or peaked.

    A small ``gap`` makes the two nearly the same.
    """

    ours: Tensor
    theirs: Tensor

    @classmethod
    def of(
        cls,
        size: float = 2.0,
        gap: float | None = None,
        vocabulary: int = VOCABULARY,
        seed: int = 0,
    ) -> Case:
        generator = torch.Generator().manual_seed(seed)
        ours, theirs = torch.randn(
            2, POSITIONS, vocabulary, generator=generator, dtype=torch.float64
        )
        theirs = size * theirs if gap is None else size * ours + gap * theirs
        return cls((size * ours).requires_grad_(), theirs)

    def float(self) -> Case:
        return Case(self.ours.detach().float().requires_grad_(), self.theirs.float())

    def frozen(self) -> Case:
        return Case(self.ours.detach(), self.theirs)

    def report(self, k: int) -> TokenLogProbs:
        """What a served teacher gives of its k most likely tokens."""
        log_q = self.theirs.log_softmax(-1)
        ids = log_q.topk(k).indices
        return TokenLogProbs(ids, log_q.gather(-1, ids))


def graded(loss: Tensor, *leaves: Tensor) -> list[Tensor]:
    """The loss and its gradients."""
    return [loss.detach(), *torch.autograd.grad(loss, leaves)]


def definition(ours: Tensor, theirs: Tensor, k: int, beta: float) -> Tensor:
    """The divergence between k tokens and the rest, for autograd."""
    ids = theirs.topk(k).indices
    log_p, log_q = (_outcomes(logits.log_softmax(-1), ids) for logits in (ours, theirs))
    if beta == 0:
        return (log_q.exp() * (log_q - log_p)).sum()
    if beta == 1:
        return (log_p.exp() * (log_p - log_q)).sum()
    log_m = (beta * log_q.exp() + (1 - beta) * log_p.exp()).log()
    to_q, to_p = ((x.exp() * (x - log_m)).sum() for x in (log_q, log_p))
    return beta * to_q + (1 - beta) * to_p


def _outcomes(log_p: Tensor, ids: Tensor) -> Tensor:
    chosen = log_p.gather(-1, ids)
    if ids.shape[1] == log_p.shape[1]:
        return chosen
    others = log_p.scatter(-1, ids, -torch.inf).logsumexp(-1, keepdim=True)
    return torch.cat([chosen, others], -1)


def assert_close(
    found: list[Tensor], expected: list[Tensor], tolerance: float, *, size: float = 1.0
) -> None:
    """Compare relative distances; rounding grows with the ``size`` of the logits."""
    for mine, reference in zip(found, expected, strict=True):
        distance = (mine.double() - reference.double()).norm()
        # Nearly certain distributions have nearly no gradients, which are nothing but rounding.
        chance = size * (1e-15 if mine.dtype == torch.float64 else 2e-7)
        assert distance <= tolerance * reference.double().norm() + chance


@pytest.mark.parametrize("beta", BETAS)
@pytest.mark.parametrize("k", [1, 4, VOCABULARY - 1, VOCABULARY])
@pytest.mark.parametrize(("size", "gap"), [(0.1, None), (2.0, None), (8.0, None), (3.0, 0.1)])
def test_top_k_is_the_divergence_between_k_tokens_and_the_rest(
    size: float, gap: float | None, k: int, beta: float
) -> None:
    case = Case.of(size, gap)
    expected = graded(definition(case.ours, case.theirs, k, beta), case.ours)
    exact = top_k_divergence_of(HEADS, case.ours, case.theirs, beta, k)
    assert_close(graded(exact, case.ours), expected, 1e-9)
    single = case.float()
    rounded = top_k_divergence_of(HEADS, single.ours, single.theirs, beta, k)
    assert_close(graded(rounded, single.ours), expected, 1e-3 if gap else 1e-4, size=size)
    if 0 < size < 8:
        # A report has no rest of its own; where that is tiny, the difference from 1 is rounding.
        reported = top_k_divergence(case.ours, BARE, case.report(k), beta)
        assert_close(graded(reported, case.ours), expected, 1e-4)


@pytest.mark.parametrize("beta", BETAS)
@pytest.mark.parametrize("size", [0.1, 2.0, 20.0])
def test_the_whole_vocabulary_gives_the_exact_divergence(size: float, beta: float) -> None:
    case = Case.of(size).float()
    exact = graded(HEADS.divergence(case.ours, case.theirs, beta), case.ours)
    k = VOCABULARY
    whole = top_k_divergence_of(HEADS, case.ours, case.theirs, beta, k)
    assert_close(graded(whole, case.ours), exact, 1e-5, size=size)
    reported = top_k_divergence(case.ours, BARE, case.report(k), beta)
    assert_close(graded(reported, case.ours), exact, 1e-5, size=size)


@given(
    st.sampled_from(BETAS) | st.floats(0.01, 0.99),
    st.sampled_from([0.1, 1.0, 4.0, 12.0]),
    st.sampled_from([None, 1.0, 0.01]),
    st.integers(2, 40),
    st.integers(0, 10**6),
)
@examples
def test_the_divergence_grows_with_k_towards_the_exact_one(
    beta: float, size: float, gap: float | None, vocabulary: int, seed: int
) -> None:
    """Merging outcomes never enlarges a divergence: the data-processing inequality."""
    case = Case.of(size, gap, vocabulary, seed).frozen()
    exact = float(HEADS.divergence(case.ours, case.theirs, beta))
    found = [
        float(top_k_divergence_of(HEADS, case.ours, case.theirs, beta, k))
        for k in range(1, vocabulary + 1)
    ]
    rounding = 1e-9 * max(1.0, exact)
    assert -rounding <= found[0]
    assert all(fewer <= more + rounding for fewer, more in itertools.pairwise(found))
    assert found[-1] == pytest.approx(exact, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("beta", BETAS)
def test_a_student_that_leaves_the_teachers_tokens_is_called_back(beta: float) -> None:
    """Without the rest, a student with the teacher's ratios among k tokens would be perfect."""
    theirs = torch.tensor([[2.0, 1.0, -9.0, -9.0]])
    ours = torch.tensor([[2.0, 1.0, 5.0, -9.0]], requires_grad=True)
    loss, gradient = graded(top_k_divergence_of(HEADS, ours, theirs, beta, 2), ours)
    assert loss > 0.1
    assert gradient[0, 2] > 0 > gradient[0, :2].max()


@pytest.mark.parametrize("beta", BETAS)
@pytest.mark.parametrize("k", [1, 3])
def test_a_students_rest_that_underflows_still_pulls(k: int, beta: float) -> None:
    ours = torch.full((1, 5), -200.0)
    ours[0, :k] = 0
    ours.requires_grad_()
    theirs = torch.zeros(1, 5)
    theirs[0, :k] = 1e-3
    loss, gradient = graded(top_k_divergence_of(HEADS, ours, theirs, beta, k), ours)
    assert loss.isfinite() and gradient.isfinite().all()
    if beta == 0:
        rest = theirs.softmax(-1)[0, k:].sum()
        assert gradient[0, k:].sum() == pytest.approx(-float(rest), rel=1e-5)


@pytest.mark.parametrize("beta", BETAS)
@pytest.mark.parametrize("excess", [-1e-9, 0.0, 3e-7])
def test_reported_probabilities_that_add_up_to_one(excess: float, beta: float) -> None:
    """By rounding, a served teacher's most likely tokens may have all of the mass, or more."""
    log_probs = torch.tensor([[0.75, 0.25]]).log() + excess
    teacher = TokenLogProbs(torch.tensor([[3, 1]]), log_probs)
    ours = torch.randn(1, 8, generator=torch.Generator().manual_seed(1)).requires_grad_()
    loss, gradient = graded(top_k_divergence(ours, BARE, teacher, beta), ours)
    assert loss.isfinite() and loss > 0 and gradient.isfinite().all()


@pytest.mark.parametrize("beta", BETAS)
def test_top_k_through_capped_heads_of_two_widths_by_chunks(beta: float) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        head, theirs_head = nn.Linear(5, VOCABULARY), nn.Linear(7, VOCABULARY + 3, bias=False)
        ours, theirs = torch.randn(POSITIONS, 5), torch.randn(POSITIONS, 7)
    ours.requires_grad_()
    theirs_head.requires_grad_(False)
    heads = Heads(
        LMHead(None, head=head, scale=3.0, cap=2.0), LMHead(None, head=theirs_head), cut=True
    )
    leaves = [ours, head.weight, head.bias]
    chunked = top_k_divergence_of(heads, ours, theirs, beta, 4, budget=1)
    found = graded(chunked, *leaves)
    z = 2 * (3 * head(ours) / 2).tanh()
    expected = graded(definition(z, theirs_head(theirs)[:, :VOCABULARY], 4, beta), *leaves)
    assert_close(found, expected, 1e-4)


@pytest.mark.parametrize("signal", ["top_k", "sampled"])
def test_under_autocast_nothing_is_rounded_before_it_is_compared(signal: str) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        head = nn.Linear(16, VOCABULARY)
        states = torch.randn(POSITIONS, 16).bfloat16()
    heads = Heads(LMHead(None, head=head), LMHead(None, head=head))
    tokens = SampledTokens.of(torch.arange(POSITIONS))
    ours = states.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        if signal == "top_k":
            loss = top_k_divergence_of(heads, ours, states, 0.5, 4)
        else:
            loss = sampled_divergence_of(heads, ours, states, tokens, temperature=0.7)
    loss.backward()
    # A student that is its own teacher.
    assert abs(float(loss.detach())) < 1e-6
    assert ours.grad is not None and ours.grad.abs().max() < 1e-5


@pytest.mark.parametrize("beta", BETAS)
@pytest.mark.parametrize("k", [2, VOCABULARY - 1])
def test_tokens_that_both_rule_out(k: int, beta: float) -> None:
    case = Case.of().float()
    keep = [token for token in range(VOCABULARY) if token != 3]
    expected = graded(
        top_k_divergence_of(
            HEADS,
            ours := case.ours.detach()[:, keep].requires_grad_(),
            case.theirs[:, keep],
            beta,
            k,
        ),
        ours,
    )
    masked = case.ours.detach().clone()
    masked[:, 3] = case.theirs[:, 3] = -torch.inf
    masked.requires_grad_()
    loss, gradient = graded(top_k_divergence_of(HEADS, masked, case.theirs, beta, k), masked)
    assert_close([loss, gradient[:, keep]], expected, 1e-5)
    assert gradient[:, 3].abs().max() < 1e-30


@pytest.mark.parametrize("beta", BETAS)
@pytest.mark.parametrize("whose", ["ours", "theirs"])
def test_what_is_not_a_number_shows(whose: str, beta: float) -> None:
    case = Case.of().float()
    with torch.no_grad():
        getattr(case, whose)[1, 2] = torch.nan
    assert top_k_divergence_of(HEADS, case.ours, case.theirs, beta, 4).isnan()
    tokens = SampledTokens.of(torch.arange(POSITIONS))
    assert sampled_divergence_of(HEADS, case.ours, case.theirs, tokens).isnan()


@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0])
def test_sums_over_sampled_tokens_are_those_of_the_exact_loss(beta: float) -> None:
    case, tokens = Case.of().float(), torch.arange(POSITIONS) * 3
    expected, *found = (SampledTokens.of(tokens) for _ in range(3))
    HEADS.divergence(case.ours, case.theirs, beta, sampled=expected)
    watched = top_k_divergence_of(HEADS, case.ours, case.theirs, beta, 4, sampled=found[0])
    assert torch.equal(watched, top_k_divergence_of(HEADS, case.ours, case.theirs, beta, 4))
    sampled_divergence_of(HEADS, case.ours, case.theirs, found[1], temperature=0.5)
    for sums in found:
        torch.testing.assert_close(sums.sums, expected.sums)


def test_top_k_forward_kl_is_that_of_trls_trainer_of_a_served_teacher() -> None:
    case = Case.of()
    teacher = case.report(5)
    log_p = case.ours.log_softmax(-1).gather(-1, teacher.ids)
    mask = torch.ones_like(log_p, dtype=torch.bool)
    with_tail = [trl_trainer._add_tail_bucket(x, mask) for x in (log_p, teacher.log_probs)]
    (ours, support), (theirs, _) = with_tail
    stock = trl_trainer._jsd_divergence(ours, theirs, 0.0, support).sum()
    mine = top_k_divergence(case.ours, BARE, teacher, 0.0)
    assert_close(graded(mine, case.ours), graded(stock, case.ours), 1e-5)


@pytest.mark.parametrize("temperature", [0.5, 0.9, 1.0, 2.0])
@pytest.mark.parametrize("size", [0.1, 2.0, 5.0])
def test_the_sampled_estimate_is_unbiased(size: float, temperature: float) -> None:
    """Its mean over all tokens of a tiny vocabulary is the reverse KL, and the gradient's too."""
    case = Case.of(size, vocabulary=5)
    exact = graded(HEADS.divergence(case.ours, case.theirs, 1.0), case.ours)
    r = (case.ours.detach() / temperature).softmax(-1)
    value, gradient = torch.zeros(()), torch.zeros_like(exact[1])
    for position in range(POSITIONS):
        for token in range(5):
            ours = case.ours.detach()[position : position + 1].requires_grad_()
            estimate, its_gradient = graded(
                sampled_divergence_of(
                    HEADS,
                    ours,
                    case.theirs[position : position + 1],
                    SampledTokens.of(torch.tensor([token])),
                    temperature=temperature,
                ),
                ours,
            )
            value = value + r[position, token] * estimate
            gradient[position] += r[position, token] * its_gradient[0]
    assert_close([value, gradient], exact, 1e-9)


@pytest.mark.parametrize("temperature", [0.7, 1.0])
def test_the_estimate_is_shown_and_the_policy_gradient_is_followed(temperature: float) -> None:
    case, tokens = Case.of(), torch.arange(POSITIONS)[:, None]
    log_p, log_q = (x.log_softmax(-1).gather(-1, tokens) for x in (case.ours, case.theirs))
    sampled_from = (case.ours / temperature).log_softmax(-1).gather(-1, tokens)
    estimate = ((log_p - sampled_from).exp() * (log_p - log_q)).detach()
    expected = [estimate.sum(), graded((estimate * log_p).sum(), case.ours)[1]]
    makers: list[Callable[[], Tensor]] = [
        lambda: sampled_divergence(
            case.ours, BARE, TokenLogProbs(tokens, log_q), temperature=temperature, budget=1
        ),
        lambda: sampled_divergence_of(
            HEADS,
            case.ours,
            case.theirs,
            SampledTokens.of(tokens[:, 0]),
            temperature=temperature,
        ),
    ]
    for make in makers:
        assert_close(graded(make(), case.ours), expected, 1e-9)


def test_no_positions() -> None:
    none, tokens = torch.empty(0, VOCABULARY, requires_grad=True), torch.empty(0, dtype=torch.long)
    nothing = TokenLogProbs(tokens[:, None], torch.empty(0, 1))
    losses = [
        top_k_divergence(none, BARE, nothing, 0.5),
        top_k_divergence_of(HEADS, none, none.detach(), 0.5, 3),
        sampled_divergence(none, BARE, nothing),
        sampled_divergence_of(HEADS, none, none.detach(), SampledTokens.of(tokens)),
    ]
    for loss in losses:
        assert loss == 0
        loss.backward()


def test_what_cannot_be() -> None:
    case = Case.of()
    teacher = case.report(2)
    tokens = SampledTokens.of(torch.arange(POSITIONS - 1))
    with pytest.raises(ValueError, match=r"k must be in \[1, 29\], but got 30"):
        top_k_divergence_of(HEADS, case.ours, case.theirs, 0.5, 30)
    with pytest.raises(ValueError, match=r"k must be in \[1, 29\], but got 0"):
        top_k_divergence_of(HEADS, case.ours, case.theirs, 0.5, 0)
    with pytest.raises(ValueError, match=r"beta must be in \[0, 1\], but got -1"):
        top_k_divergence(case.ours, BARE, teacher, -1)
    with pytest.raises(ValueError, match="positions must match, but got 5 and 6"):
        top_k_divergence(case.ours[:5], BARE, teacher, 0.5)
    with pytest.raises(ValueError, match="positions must match, but got 6, 6 and 5"):
        sampled_divergence_of(HEADS, case.ours, case.theirs, tokens)
    with pytest.raises(ValueError, match=r"must have one token, but got 6 positions and \(6, 2\)"):
        sampled_divergence(case.ours, BARE, teacher)
    with pytest.raises(ValueError, match=r"positions × k, but got \(6, 2\) and \(6, 1\)"):
        TokenLogProbs(teacher.ids, teacher.log_probs[:, :1])


LOSSES: dict[str, Callable[[Case, SampledTokens], torch.Tensor]] = {
    "exact, forward": lambda c, s: HEADS.divergence(c.ours, c.theirs, 0.0, sampled=s),
    "exact, mixed": lambda c, s: HEADS.divergence(c.ours, c.theirs, 0.5, sampled=s, budget=1),
    "exact, reverse": lambda c, s: HEADS.divergence(c.ours, c.theirs, 1.0, sampled=s),
    "top k": lambda c, s: top_k_divergence_of(HEADS, c.ours, c.theirs, 0.5, 4, sampled=s),
    "sampled": lambda c, s: sampled_divergence_of(HEADS, c.ours, c.theirs, s, temperature=0.5),
    "served, top k": lambda c, s: top_k_divergence(c.ours, BARE, c.report(4), 0.5, sampled=s),
    "served, sampled": lambda c, s: sampled_divergence(
        c.ours,
        BARE,
        TokenLogProbs(s.tokens[:, None], c.theirs.log_softmax(-1).gather(-1, s.tokens[:, None])),
        sampled=s,
    ),
}


@pytest.mark.parametrize("temperature", [0.6, 1.0, 1.7])
@pytest.mark.parametrize("loss", LOSSES)
def test_reported_log_probabilities_are_compared_in_passing(loss: str, temperature: float) -> None:
    case, tokens = Case.of().float(), torch.arange(POSITIONS) * 3
    with torch.no_grad():
        every = (case.ours / temperature).log_softmax(-1)
    own = every.gather(-1, tokens[:, None])[:, 0]
    off = torch.linspace(-0.3, 0.2, POSITIONS)
    reported = ReportedLogProbs.of(own + off, temperature)
    plain = LOSSES[loss](case, SampledTokens.of(tokens))
    assert torch.equal(LOSSES[loss](case, SampledTokens.of(tokens, reported)), plain)
    expected = torch.stack([off.abs().sum(), off.abs().max()])
    torch.testing.assert_close(reported.differences, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("beta", BETAS)
@pytest.mark.parametrize("size", [0.1, 2.0])
def test_positions_with_fewer_reported_tokens(size: float, beta: float) -> None:
    """Each position is as in a report of its own number of tokens, the whole vocabulary's too."""
    case, counts = Case.of(size), [1, 2, 4, 7, VOCABULARY - 1, VOCABULARY]
    whole = case.report(VOCABULARY)
    missing = torch.arange(VOCABULARY) >= torch.tensor(counts)[:, None]
    teacher = TokenLogProbs(
        whole.ids.masked_fill(missing, -1).int(), whole.log_probs.masked_fill(missing, -torch.inf)
    )
    found = graded(top_k_divergence(case.ours, BARE, teacher, beta), case.ours)
    rows = [
        top_k_divergence(
            case.ours[row : row + 1],
            BARE,
            TokenLogProbs(whole.ids[row : row + 1, :k], whole.log_probs[row : row + 1, :k]),
            beta,
        )
        for row, k in enumerate(counts)
    ]
    assert_close(found, graded(torch.stack(rows).sum(), case.ours), 1e-12)


@pytest.mark.parametrize("signal", ["top_k", "sampled"])
def test_without_the_teacher_the_students_entropy_is_still_known(signal: str) -> None:
    case, tokens = Case.of().float(), torch.arange(POSITIONS) * 3
    expected, found = SampledTokens.of(tokens), SampledTokens.of(tokens)
    HEADS.divergence(case.ours, case.theirs, 0.5, sampled=expected)
    own = case.theirs.log_softmax(-1).gather(-1, tokens[:, None])
    if signal == "top_k":
        plain = top_k_divergence(case.ours, BARE, case.report(4), 0.5)
        loss = top_k_divergence(case.ours, BARE, case.report(4), 0.5, sampled=found)
    else:
        teacher = TokenLogProbs(tokens[:, None], own)
        plain = sampled_divergence(case.ours, BARE, teacher)
        loss = sampled_divergence(case.ours, BARE, teacher, sampled=found)
    assert torch.equal(loss, plain)
    torch.testing.assert_close(found.sums, expected.sums * torch.tensor([1, 0, 0]))
