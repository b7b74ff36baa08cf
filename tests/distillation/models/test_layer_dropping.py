"""Students made of some of a larger model's layers: whichever the architecture, a whole model."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import DiffLlamaConfig, Gemma3nTextConfig, Qwen2MoeConfig

from sweeper.config.models import LoraConfig, ModelConfig
from sweeper.distillation.models.adapters import add_adapter
from sweeper.distillation.models.layer_dropping import spread
from sweeper.distillation.models.loading import identity, load_model
from sweeper.foundation.errors import BadInputError
from tests.support.layered_models import (
    ARCHITECTURES,
    COMMON,
    EXPERTS,
    LAYERS,
    WINDOW,
    write,
    write_model,
)

TOKENS = torch.tensor([[3, 4, 5, 6, 7, 8, 9, 10, 11, 12], [13, 3, 14, 3, 15, 3, 16, 3, 17, 3]])


def student(model: str, keep: int | tuple[int, ...], **changes: Any) -> Any:
    return load_model(ModelConfig(model=model, keep_layers=keep, **changes), "cpu")


@torch.no_grad()
def logits(model: Any) -> torch.Tensor:
    found: torch.Tensor = model(TOKENS).logits
    return found


@torch.no_grad()
def logits_through_the_cache(model: Any) -> torch.Tensor:
    parts, cache = [], None
    for position in range(TOKENS.shape[1]):
        step = TOKENS[:, position : position + 1]
        output = model(step, past_key_values=cache, use_cache=True)
        parts.append(output.logits)
        cache = output.past_key_values
    return torch.cat(parts, dim=1)


@pytest.mark.parametrize(
    ("count", "total", "kept"),
    [
        (2, 2, (0, 1)),
        (2, 30, (0, 29)),
        (3, 5, (0, 2, 4)),
        (3, 6, (0, 3, 5)),
        (6, 6, (0, 1, 2, 3, 4, 5)),
        (10, 30, (0, 3, 6, 10, 13, 16, 19, 23, 26, 29)),
    ],
)
def test_a_number_of_layers_is_spread_evenly(count: int, total: int, kept: tuple[int, ...]) -> None:
    assert spread(count, total) == kept


def test_a_spread_has_no_layer_twice_and_both_ends() -> None:
    for total in range(2, 40):
        for count in range(2, total + 1):
            kept = spread(count, total)
            assert len(set(kept)) == count
            assert list(kept) == sorted(kept)
            assert (kept[0], kept[-1]) == (0, total - 1)
            steps = {after - before for before, after in pairwise(kept)}
            assert max(steps) - min(steps) <= 1


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_student_is_a_whole_model(architecture: str, tmp_path: Path) -> None:
    path = write(architecture, tmp_path / "large")
    large = load_model(ModelConfig(model=path), "cpu")
    small = student(path, (0, 1, 3, 5))
    assert small.config.num_hidden_layers == 4
    assert small.num_parameters() < large.num_parameters()

    # The layers that were asked for, and what is around them.
    theirs = dict(large.named_parameters())
    kept = (0, 1, 3, 5)
    for name, weights in small.named_parameters():
        parts = name.split(".")
        numbers = [index for index, part in enumerate(parts) if part.isdigit()]
        if numbers:
            parts[numbers[0]] = str(kept[int(parts[numbers[0]])])
        assert torch.equal(weights, theirs[".".join(parts)]), name

    # Each layer finds its own keys and values.
    whole = logits(small)
    assert torch.allclose(logits_through_the_cache(small), whole, atol=1e-5)
    options: dict[str, Any] = {"max_new_tokens": 6, "do_sample": False}
    mask = torch.ones_like(TOKENS)
    cached, again = (
        small.generate(TOKENS, attention_mask=mask, use_cache=use_cache, **options)
        for use_cache in (True, False)
    )
    assert torch.equal(cached, again)

    # Saved as the warm start is, it is the same model again.
    small.save_pretrained(tmp_path / "small")
    loaded = load_model(ModelConfig(model=str(tmp_path / "small")), "cpu")
    assert torch.equal(logits(loaded), whole)


def test_all_layers_are_the_model_itself(tmp_path: Path) -> None:
    path = write("qwen3", tmp_path)
    large = load_model(ModelConfig(model=path), "cpu")
    for keep in (LAYERS, tuple(range(LAYERS))):
        assert torch.equal(logits(student(path, keep)), logits(large))


def test_each_layer_keeps_its_kind_of_attention(tmp_path: Path) -> None:
    path = write("gemma2", tmp_path)
    before = load_model(ModelConfig(model=path), "cpu").config.layer_types
    assert student(path, (0, 1, 3)).config.layer_types == [before[0], before[1], before[3]]


def test_random_weights_in_the_smaller_shape(tmp_path: Path) -> None:
    path = write("gemma2", tmp_path)
    pruned = student(path, 4)
    random = student(path, 4, random_init=True)
    assert random.config.to_dict() == pruned.config.to_dict()
    assert {n: p.shape for n, p in random.named_parameters()} == {
        n: p.shape for n, p in pruned.named_parameters()
    }
    assert not torch.equal(logits(random), logits(pruned))


def test_a_student_of_some_layers_can_have_an_adapter(tmp_path: Path) -> None:
    small = student(write("llama", tmp_path), 3)
    before = logits(small)
    adapted = add_adapter(small, LoraConfig(r=2), {}, seed=1).eval()
    assert torch.allclose(logits(adapted), before)
    trained = {
        name.partition(".layers.")[2][0]
        for name, p in adapted.named_parameters()
        if p.requires_grad
    }
    assert trained == {"0", "1", "2"}
    assert torch.allclose(logits(adapted.merge_and_unload()), before, atol=1e-5)


def test_identity_tells_students_of_one_model_apart(tmp_path: Path) -> None:
    path = write("llama", tmp_path)
    kept = [None, 3, (0, 2, 5), (0, 3, 5)]
    found = [identity(ModelConfig(model=path, keep_layers=keep)) for keep in kept]
    assert all(found.count(one) == 1 for one in found)
    assert identity(ModelConfig(model=path, random_init=True)) not in found


@pytest.mark.parametrize(
    ("keep", "message"),
    [
        (7, "expected at most 6, the model's number of layers, found 7"),
        ((0, 6), "expected layers from 0 to 5, the model's last, found 6"),
    ],
)
def test_layers_that_are_not_there(
    tmp_path: Path, keep: int | tuple[int, ...], message: str
) -> None:
    path = write("gpt2", tmp_path)
    for random_init in (False, True):
        with pytest.raises(BadInputError, match=message) as caught:
            student(path, keep, random_init=random_init)
        assert caught.value.key == ("student", "keep_layers")


def shared_keys(tmp_path: Path) -> str:
    """A model whose last two layers read the keys and values of the ones before them."""
    config = Gemma3nTextConfig(
        **COMMON,
        **WINDOW,
        layer_types=["sliding_attention", "full_attention"] * (LAYERS // 2),
        vocab_size_per_layer_input=32,
        hidden_size_per_layer_input=8,
        num_kv_shared_layers=2,
        laurel_rank=4,
        activation_sparsity_pattern=None,
    )
    return write_model(config, tmp_path)


def numbered_layers(tmp_path: Path) -> str:
    """A model whose configuration says by their numbers which layers have no experts."""
    experts = {**EXPERTS, "num_experts": 4, "moe_intermediate_size": 8}
    return write_model(Qwen2MoeConfig(**COMMON, **experts, mlp_only_layers=[1, 2]), tmp_path)


def deeper_is_different(tmp_path: Path) -> str:
    """A model whose layers compute with a number that follows from how deep they are."""
    return write_model(DiffLlamaConfig(**COMMON | {"num_key_value_heads": 2}), tmp_path)


@pytest.mark.parametrize(
    ("write_large", "keep", "difference"),
    [
        (numbered_layers, (0, 1, 3, 5), r"mlp\.\S* would be missing"),
        (shared_keys, (0, 1, 3, 5), r"k_norm\S* would be left over"),
        (shared_keys, (0, 1, 4, 5), r"embed_tokens_per_layer\S* would change its shape"),
        (shared_keys, (0, 2, 4, 5), r"layer types producing a cache"),
        (deeper_is_different, (0, 1, 3, 5), r"2\S*lambda_init would be 0\.\d+ instead of 0\.\d+"),
    ],
)
def test_layers_that_depend_on_the_others_are_refused(
    tmp_path: Path, write_large: Any, keep: tuple[int, ...], difference: str
) -> None:
    path = write_large(tmp_path)
    with pytest.raises(BadInputError, match=f"without the others.*{difference}") as caught:
        student(path, keep)
    assert caught.value.key == ("student", "keep_layers")
