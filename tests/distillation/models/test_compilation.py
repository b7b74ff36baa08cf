"""A compiled teacher reads as the teacher does."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch._inductor import config as inductor

from sweeper.config.models import ModelConfig
from sweeper.distillation.data.batches import counted_positions
from sweeper.distillation.models.compilation import compile_reading
from sweeper.distillation.models.lm_head import LMHead
from sweeper.distillation.models.loading import identity, load_model
from sweeper.foundation.errors import BadInputError
from tests.support.tiny_models import make_tiny

# What the compiler imports uses what torch itself deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script:DeprecationWarning")


@pytest.mark.soak
@torch.no_grad()
def test_a_compiled_teacher_gives_the_same_states(tmp_path: Path) -> None:
    config = ModelConfig(model=make_tiny(tmp_path, "llama3", layers=1, spread=4.0))
    compiled = config.model_copy(update={"compile": True})
    eager, fast = (LMHead.of(load_model(c, "cpu"), trained=False) for c in (config, compiled))
    assert fast.body is not None
    for rows, length in ((2, 16), (3, 11)):
        tokens = torch.arange(3, 3 + rows * length).view(rows, length)
        positions = counted_positions(torch.ones(rows, length))
        found, wanted = (r.states({"input_ids": tokens}, positions) for r in (fast, eager))
        assert (found - wanted).norm() / wanted.norm() < 1e-5
    # It decodes as before.
    mask = torch.ones_like(tokens)
    options = {"max_new_tokens": 4, "do_sample": False, "attention_mask": mask}
    assert torch.equal(
        fast.model.generate(tokens, **options), eager.model.generate(tokens, **options)
    )
    # What is cached of it is its own: the last digits may differ.
    assert identity(config) != identity(compiled)


class Body(torch.nn.Module):
    """As little of a model as can be compiled."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))

    def get_decoder(self) -> Body:
        return self

    def forward(self, input_ids: torch.Tensor, use_cache: bool) -> torch.Tensor:
        return (input_ids * self.weight).sin()


def test_what_cannot_be_compiled_is_told() -> None:
    """Here because there is no compiler, as on many a fresh machine."""
    absent = {"cpp.cxx": ("/nowhere/g++",), "force_disable_caches": True}
    refused = pytest.raises(BadInputError, match=r"torch\.compile can compile")
    with inductor.patch(absent), refused as caught:
        compile_reading(Body())
    assert caught.value.key == ("teacher", "compile")
    assert "\n" not in str(caught.value)
