"""Which models are read by their heads, and that it makes no difference to loss and gradients."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from peft import LoraConfig, PrefixTuningConfig, get_peft_model
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, LlamaForCausalLM

from sweeper.config.models import ModelConfig
from sweeper.distillation.divergence import Heads
from sweeper.distillation.models.lm_head import LMHead
from sweeper.distillation.models.loading import load_model, load_tokenizer

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from trl.experimental.gkd import GKDTrainer

BETAS = [0.0, 0.01, 0.5, 0.99, 1.0]
LLAMA: dict[str, Any] = {
    "vocab_size": 61,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
SHAPES: dict[str, dict[str, Any]] = {
    "gpt2": {"vocab_size": 61, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 32},
    "opt": {**LLAMA, "ffn_dim": 32, "word_embed_proj_dim": 12},
    "gemma2": {**LLAMA, "final_logit_softcapping": 0.5},
    "granite": {**LLAMA, "logits_scaling": 8.0},
    "hyperclovax": {**LLAMA, "logits_scaling": 0.3},
    "cohere": {**LLAMA, "logit_scale": 0.0625},
    "cohere2": {**LLAMA, "logit_scale": 0.8333},
}
SCALED = ["granite", "hyperclovax", "cohere", "cohere2"]
BY_HEAD = ["llama", "qwen2", "qwen3", "gpt2", "opt", "gemma2", *SCALED]


def tiny(kind: str = "llama", seed: int = 0, **changes: Any) -> Any:
    """A random model whose logits are far from all alike."""
    config = AutoConfig.for_model(kind, **{**SHAPES.get(kind, LLAMA), **changes})
    for name in ("bos_token_id", "eos_token_id"):
        setattr(config, name, 1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config)
        with torch.no_grad():
            for weights in model.parameters():
                if weights.ndim > 1:
                    weights.normal_(std=0.3)
    return model.eval()


def batch(vocabulary: int = 61, *, seed: int = 0) -> tuple[dict[str, Tensor], Tensor]:
    """Right-padded tokens, and which predictions count: a few in the middle of each row."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, vocabulary, (3, 9), generator=generator)
    mask = (torch.arange(9) < torch.tensor([9, 7, 4])[:, None]).long()
    counted = (torch.arange(8) >= torch.tensor([3, 4, 1])[:, None]) & mask[:, 1:].bool()
    return {"input_ids": ids * mask, "attention_mask": mask}, counted


def stock(student: Any, teacher: Any, beta: float, tokens: Any, counted: Tensor) -> Tensor:
    """TRL's loss on whole logits."""
    with torch.no_grad():
        theirs = teacher(**tokens).logits[:, :-1][counted]
    ours = student(**tokens).logits[:, :-1][counted]
    loss: Tensor = GKDTrainer.generalized_jsd_loss(
        ours, theirs.to(ours), beta=beta, reduction="sum"
    )
    return loss


def divergence(heads: Heads, beta: float, tokens: Any, counted: Tensor) -> Tensor:
    """As a trainer does it."""
    positions = at(counted)
    with torch.no_grad():
        theirs = heads.teacher.states(tokens, positions)
    return heads.divergence(heads.student.states(tokens, positions), theirs, beta)


def at(counted: Tensor) -> Tensor:
    """Positions of the predictions that count."""
    return nn.functional.pad(counted, (0, 1)).flatten().nonzero()[:, 0]


def trained(model: nn.Module) -> dict[str, Tensor]:
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def graded(loss: Tensor, model: nn.Module) -> dict[str, Tensor]:
    """The loss and its gradients with respect to all that is trained."""
    weights = trained(model)
    grads = torch.autograd.grad(loss, list(weights.values()))
    return {"loss": loss.detach(), **dict(zip(weights, grads, strict=True))}


def assert_close(some: dict[str, Tensor], others: dict[str, Tensor], most: float) -> None:
    assert some.keys() == others.keys()
    scale = max(float(other.norm()) for name, other in others.items() if name != "loss")
    for name, other in others.items():
        distance = float((some[name] - other).double().norm())
        assert distance <= most * (float(other) if name == "loss" else scale), name


def check(student: Any, teacher: Any, *, by_head: tuple[bool, bool], most: float = 1e-9) -> None:
    """In float64, so that nothing but a mistake makes a difference."""
    heads = Heads.of(student.double(), teacher.double())
    assert (heads.student.head is not None, heads.teacher.head is not None) == by_head
    tokens, counted = batch(student.config.vocab_size)
    for beta in BETAS:
        mine = graded(divergence(heads, beta, tokens, counted), student)
        assert_close(mine, graded(stock(student, teacher, beta, tokens, counted), student), most)


@pytest.mark.parametrize("kind", BY_HEAD)
def test_models_whose_logits_are_their_heads(kind: str) -> None:
    check(tiny(kind), tiny(kind, seed=1), by_head=(True, True))


@pytest.mark.parametrize("kind", SCALED)
def test_models_that_scale_their_logits(kind: str) -> None:
    assert LMHead.of(tiny(kind), trained=True).scale != 1
    check(tiny("llama"), tiny(kind), by_head=(True, True))
    check(tiny(kind), tiny("llama"), by_head=(True, True))
    one = {name: 1.0 for name in SHAPES[kind] if name.startswith("logit")}
    assert LMHead.of(tiny(kind, **one), trained=True).scale == 1


class Squared(LlamaForCausalLM):  # type: ignore[misc]
    """Does more to its logits than scale or cap them."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        output = super().forward(*args, **kwargs)
        output.logits = output.logits + output.logits.square() / 100
        return output


def squared(seed: int = 0) -> Any:
    config = tiny().config
    model = Squared(config)
    model.load_state_dict(tiny(seed=seed).state_dict())
    return model.eval()


def test_models_that_do_more_to_their_logits_are_read_by_them() -> None:
    check(squared(), squared(1), by_head=(False, False))
    check(tiny("llama"), squared(), by_head=(True, False))
    check(squared(), tiny("llama"), by_head=(False, True))


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("kind", [*BY_HEAD, "squared"])
def test_no_kind_of_model_rounds_its_logits_to_16_bits(kind: str, autocast: bool) -> None:
    """The same states through the head in float32, and what the model does to its logits."""
    model = squared() if kind == "squared" else tiny(kind)
    model = model if autocast else model.bfloat16()
    head, seen = model.get_output_embeddings(), []
    tokens, counted = batch()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        lm_head = LMHead.of(model, trained=True)
        found = lm_head.logits(lm_head.states(tokens, at(counted)))
        hook = head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        model(**tokens)
        hook.remove()
    assert found.dtype == torch.float32 and "forward" not in vars(head)
    [states] = seen
    # Autocast rounds what goes into a layer.
    exact = states.bfloat16().double() @ head.weight.bfloat16().double().t()
    config = model.config
    exact = exact / getattr(config, "logits_scaling", 1) * getattr(config, "logit_scale", 1)
    if kind == "hyperclovax":
        exact = exact * config.logits_scaling**2
    if kind == "gemma2":
        exact = (exact / 0.5).tanh() * 0.5
    if kind == "squared":
        exact = exact + exact.square() / 100
    torch.testing.assert_close(found.double(), exact[:, :-1][counted], rtol=1e-5, atol=1e-5)


def test_a_cap_that_small_logits_would_not_show() -> None:
    """A configuration may name a cap that the model knows nothing of."""
    model = tiny("llama", final_logit_softcapping=1000.0)
    assert LMHead.of(model, trained=True).head is None
    model = tiny("gemma2", final_logit_softcapping=1000.0)
    assert LMHead.of(model, trained=True).cap == 1000.0
    model.lm_head.weight.data.mul_(1e-3)
    assert LMHead.of(model, trained=True).cap == 1000.0


@pytest.mark.parametrize("bias", [False, True])
def test_a_head_with_a_bias(bias: bool) -> None:
    students = tiny("llama"), tiny("llama", seed=1)
    for model in students:
        model.lm_head = nn.Linear(16, 61, bias=bias)
    check(*students, by_head=(True, True))


def test_tied_embeddings_get_both_gradients() -> None:
    student = tiny("llama", tie_word_embeddings=True)
    assert student.lm_head.weight is student.model.embed_tokens.weight
    check(student, tiny("llama", seed=1), by_head=(True, True))


def lora(**changes: Any) -> Any:
    values: dict[str, Any] = {"r": 4, "target_modules": "all-linear", "init_lora_weights": False}
    return get_peft_model(tiny(), LoraConfig(task_type="CAUSAL_LM", **{**values, **changes}))


def test_adapters_in_the_body_are_trained_and_the_head_is_not() -> None:
    student = lora(target_modules=["q_proj", "down_proj"])
    assert all("lora" in name for name in trained(student))
    check(student, tiny(seed=1), by_head=(True, True))


@pytest.mark.parametrize(
    "changes",
    [
        {"target_modules": ["q_proj", "lm_head"]},
        {"modules_to_save": ["lm_head"]},
        {"target_modules": ["q_proj"], "trainable_token_indices": [3, 5]},
    ],
)
def test_adapters_on_the_head(changes: dict[str, Any]) -> None:
    by_head = "lm_head" not in changes.get("target_modules", ())
    check(lora(**changes), tiny(seed=1), by_head=(by_head, True))


def test_a_teacher_may_have_any_module_as_its_head() -> None:
    teacher = lora(target_modules=["lm_head"]).eval()
    check(tiny(), teacher, by_head=(True, True))


def test_prefixes_are_read_by_logits() -> None:
    student = get_peft_model(
        tiny(), PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
    )
    assert LMHead.of(student, trained=True).head is None


def test_wrappers_are_read_by_their_own_forward_pass() -> None:
    wrapped = nn.DataParallel(tiny(), device_ids=[])
    assert LMHead.of(wrapped, trained=True) == LMHead(wrapped)


def test_a_model_is_left_as_it_was() -> None:
    student = lora(lora_dropout=0.5).train()
    student.get_base_model().model.norm.eval()
    modes = [module.training for module in student.modules()]
    state = torch.get_rng_state()
    assert LMHead.of(student, trained=True).head is not None
    assert modes == [module.training for module in student.modules()]
    assert torch.equal(state, torch.get_rng_state())
    assert not any(module._forward_hooks for module in student.modules())


def test_gradient_checkpointing() -> None:
    student = tiny().train()
    teacher = tiny(seed=1)
    tokens, counted = batch()
    plain = graded(divergence(Heads.of(student, teacher), 0.5, tokens, counted), student)
    student.activation_checkpointing_enable({"use_reentrant": False})
    assert student.model.layers[0].gradient_checkpointing
    again = graded(divergence(Heads.of(student, teacher), 0.5, tokens, counted), student)
    assert_close(again, plain, 1e-6)


@pytest.fixture
def accelerator() -> Iterator[Accelerator]:
    AcceleratorState._reset_state(True)
    yield Accelerator(mixed_precision="bf16", cpu=True)
    AcceleratorState._reset_state(True)


@pytest.mark.parametrize("kind", ["llama", "gpt2", "granite"])
def test_autocast_as_a_trainer_sets_it_up(kind: str, accelerator: Accelerator) -> None:
    """Accelerate puts autocast into ``model.forward``, past which the body is called."""
    student = accelerator.prepare_model(tiny(kind))
    teacher = accelerator.prepare_model(tiny(kind, seed=1), evaluation_mode=True)
    tokens, counted = batch()
    with accelerator.autocast():
        heads = Heads.of(student, teacher)
        mine = graded(divergence(heads, 0.5, tokens, counted), student)
    assert heads.student.head is not None
    assert_close(mine, graded(stock(student, teacher, 0.5, tokens, counted), student), 2e-2)
    # Outside, head and model do not agree, and the model is believed.
    assert LMHead.of(student, trained=True).head is None


def test_float16_is_read_by_logits() -> None:
    student = tiny()
    with torch.autocast("cpu", torch.float16):
        assert LMHead.of(student, trained=True).head is None
        assert LMHead.of(student, trained=False).head is not None
    assert LMHead.of(student.half(), trained=True).head is None


@pytest.mark.parametrize("beta", BETAS)
def test_models_in_different_precisions(beta: float) -> None:
    tokens, counted = batch()
    student, teacher = tiny(), tiny(seed=1).bfloat16()
    mine = graded(divergence(Heads.of(student, teacher), beta, tokens, counted), student)
    # The teacher's hidden states are in bfloat16; its logits are not rounded once more.
    teacher.lm_head.register_forward_pre_hook(lambda _, inputs: (inputs[0].float(),))
    teacher.lm_head.float()
    assert_close(mine, graded(stock(student, teacher, beta, tokens, counted), student), 1e-4)
    same = tiny(seed=1).bfloat16().float()
    heads = Heads.of(tiny(seed=1).bfloat16(), same)
    assert heads.student.head is not None
    low = graded(divergence(heads, beta, tokens, counted), heads.student.model)
    assert low["loss"].dtype == torch.float32
    assert 0 < low["loss"] < 1e-2


def test_the_builtin_pair() -> None:
    models = [ModelConfig(model=f"builtin/adder-{who}") for who in ("student", "teacher")]
    student, teacher = (load_model(model, "cpu") for model in models)
    heads = Heads.of(student, teacher)
    assert heads.student.head is not None
    assert heads.teacher.head is not None
    tokenizer = load_tokenizer(models[0])
    texts = ["1234+5678?6912", "1111+2222?3333", "9999+1?10000"]
    encoded = tokenizer(texts, padding=True, return_tensors="pt", add_special_tokens=False)
    tokens = {name: encoded[name] for name in ("input_ids", "attention_mask")}
    counted = tokens["attention_mask"][:, 1:].bool()
    for beta in BETAS:
        mine = graded(divergence(heads, beta, tokens, counted), student)
        theirs = graded(stock(student, teacher, beta, tokens, counted), student)
        exact = graded(stock(student.double(), teacher.double(), beta, tokens, counted), student)
        student.float(), teacher.float()
        assert_close(mine, exact, 1e-3)
        limit = max(abs(theirs["loss"] - exact["loss"]), 1e-5 * exact["loss"])
        assert abs(mine["loss"] - exact["loss"]) <= limit
