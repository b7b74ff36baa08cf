"""How exact two losses are in float32, by how near two models are.

``python -m benchmarks.divergence`` prints relative errors of the divergence against TRL's
``GKDTrainer`` in float64: of TRL's chunked kernel, which its ``DistillationTrainer`` uses, and of
ours.
"""

from __future__ import annotations

import argparse
import warnings

import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from sweeper.distillation.divergence import Heads
from sweeper.distillation.models.lm_head import LMHead

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from trl.experimental.gkd import GKDTrainer
    from trl.kernels.chunked_divergence import ChunkedDivergenceFunction

BETAS = (0.0, 0.01, 0.5, 0.99, 1.0)
POSITIONS, WIDTH, VOCABULARY = 64, 64, 5000


def errors(gap: float, beta: float) -> tuple[float, float]:
    """Return the relative errors of TRL's kernel and of ours.

    Args:
        gap: Size of the noise that the teacher's states have over the student's.
        beta: Interpolation of the divergence.
    """
    torch.manual_seed(0)
    head = nn.Linear(WIDTH, VOCABULARY)
    ours = 2 * torch.randn(POSITIONS, WIDTH)
    theirs = ours + gap * torch.randn(POSITIONS, WIDTH)
    parts = (head.weight, head.bias)
    kernel = ChunkedDivergenceFunction.apply(ours, *parts, theirs, *parts, beta)[0].sum()
    heads = Heads(LMHead(None, head=head), LMHead(None, head=head))
    mine = heads.divergence(ours, theirs, beta)
    head = head.double()
    exact = GKDTrainer.generalized_jsd_loss(
        head(ours.double()), head(theirs.double()), beta=beta, reduction="sum"
    )
    first, second = (abs(float(found) / float(exact) - 1) for found in (kernel, mine))
    return first, second


@torch.no_grad()
def main() -> None:
    """Print the errors."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    shown = Table(box=None, header_style="dim")
    for header in ("noise", "beta", "TRL's kernel", "ours"):
        shown.add_column(header, justify="right")
    for gap in (1.0, 0.1, 0.01):
        for beta in BETAS:
            first, second = errors(gap, beta)
            shown.add_row(f"{gap:g}", f"{beta:g}", f"{first:.1e}", f"{second:.1e}")
    Console().print(shown)


if __name__ == "__main__":
    main()
