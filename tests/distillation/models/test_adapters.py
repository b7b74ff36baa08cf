"""Which modules of a student an adapter may be put on, and what kinds of adapter there are."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from transformers import GPTNeoXConfig

from sweeper.config.models import LoraConfig, StudentConfig
from sweeper.distillation.models.adapters import add_adapter, check_adapter, merge_adapter
from sweeper.distillation.models.loading import load_model
from sweeper.foundation.errors import BadInputError
from tests.support.tiny_models import make_tiny

TOKENS = torch.arange(3, 19).view(2, 8)


@pytest.fixture(scope="module")
def students(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Students with a head of their own, and one whose head is tied to the embeddings."""
    root = tmp_path_factory.mktemp("students")
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    GPTNeoXConfig(**sizes, vocab_size=64, intermediate_size=32).save_pretrained(root / "gpt_neox")
    found = {"gpt_neox": str(root / "gpt_neox")}
    return found | {kind: make_tiny(root / kind, kind) for kind in ("llama3", "qwen2", "qwen3_moe")}


TARGETS, SAVED = "target_modules", "modules_to_save"


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize(
    ("kind", "key", "names", "message"),
    [
        ("gpt_neox", TARGETS, ["query_key_value", "lm_head"], "expected no head, found 'lm_he"),
        ("llama3", TARGETS, ["q_proj", "lm_head"], "expected no head, found 'lm_head'"),
        ("qwen2", TARGETS, ["q_proj", "embed_tokens"], "found 'embed_tokens': in this student"),
        ("qwen2", SAVED, ["lm_head"], "found 'lm_head': in this student"),
        ("qwen2", SAVED, ["embed_tokens"], "found 'embed_tokens': in this student"),
        ("qwen2", TARGETS, ["q_proj", "w_proj"], "(down_proj, embed_tokens, gate_proj, "),
        ("qwen2", SAVED, ["head"], "found 'head'"),
        ("llama3", SAVED, ["rotary_emb"], "found 'rotary_emb', which has none"),
        ("llama3", SAVED, ["norm", "act_fn"], "expected modules with weights, found 'act_fn'"),
        ("llama3", TARGETS, ["q_proj", "act_fn"], "found 'act_fn', which has none"),
        ("llama3", SAVED, ["layers"], "cannot adapt them: No modules were targeted"),
        ("qwen3_moe", SAVED, ["gate"], "name others, or fewer target_modules"),
        ("qwen3_moe", SAVED, ["experts"], "cannot adapt them: modules_to_save cannot be applied"),
        ("qwen2", TARGETS, ["mlp"], "PEFT cannot adapt them: Target module Qwen2MLP"),
    ],
)
def test_modules_that_cannot_be_adapted_are_refused_without_weights(
    students: dict[str, str], kind: str, key: str, names: list[str], message: str
) -> None:
    # Names of heads are refused in the study file; here the model itself decides.
    lora = LoraConfig().model_copy(update={key: tuple(names)})
    student = StudentConfig(model=students[kind]).model_copy(update={"lora": lora})
    with pytest.raises(BadInputError) as caught:
        check_adapter(student)
    assert message in str(caught.value)
    assert caught.value.key == ("student", "lora", key)


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("gpt_neox", {}),
        ("qwen2", {}),
        ("qwen2", {TARGETS: ["layers.1.self_attn.q_proj"]}),
        ("llama3", {SAVED: ["lm_head", "embed_tokens"]}),
        ("qwen3_moe", {TARGETS: ["q_proj"], SAVED: ["gate"]}),
        ("llama3", {TARGETS: ["q_proj", "embed_tokens"]}),
    ],
)
def test_other_modules_are_adapted(
    students: dict[str, str], kind: str, changes: dict[str, Any]
) -> None:
    check_adapter(StudentConfig(model=students[kind], lora=LoraConfig(**changes)))


def moved(path: str, **changes: Any) -> tuple[Any, Any]:
    """The logits of a student whose adapter is as if trained, and of what it is merged into."""
    lora = LoraConfig(r=4, alpha=8.0, **changes)
    model = add_adapter(load_model(StudentConfig(model=path), "cpu"), lora, {}, seed=1)
    with torch.no_grad():
        for name, weights in model.named_parameters():
            if "lora_B" in name or "modules_to_save" in name:
                weights.normal_(std=0.1, generator=torch.Generator().manual_seed(len(name)))
        found = model.eval()(TOKENS).logits
        merged = merge_adapter(model, StudentConfig(model=path), "cpu", 0)
        return found, merged(TOKENS).logits


def test_each_kind_of_adapter_differs_and_is_merged_exactly(students: dict[str, str]) -> None:
    kinds: list[dict[str, Any]] = [
        {},
        {"use_rslora": True},
        {"use_dora": True},
        {SAVED: ["lm_head"]},
    ]
    found = [moved(students["llama3"], **changes) for changes in kinds]
    for logits, merged in found:
        torch.testing.assert_close(merged, logits, rtol=1e-4, atol=1e-4)
    assert all(not torch.allclose(found[0][0], logits) for logits, _ in found[1:])


def test_rslora_divides_by_the_root_of_the_rank(students: dict[str, str]) -> None:
    scales = []
    for stabilised in (False, True):
        lora = LoraConfig(r=4, alpha=8.0, use_rslora=stabilised)
        model = add_adapter(load_model(StudentConfig(model=students["qwen2"]), "cpu"), lora, {}, 1)
        scales.append(model.get_base_model().model.layers[0].self_attn.q_proj.scaling["default"])
    assert scales == [8.0 / 4, 8.0 / math.sqrt(4)]
