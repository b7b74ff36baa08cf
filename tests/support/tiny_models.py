"""Tiny random models of the architectures that people distil, with the tokenizers of their kind.

Each is a real model directory of about 100 KB: configuration, safetensors, fast tokenizer and chat
template, made in well under a second and without a hub.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from string import printable
from typing import Any

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAMA3 = (
    "{{ bos_token }}{% for message in messages %}<|start_header_id|>{{ message['role'] }}"
    "<|end_header_id|>\n\n{{ message['content'] | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'system' %}"
    "{{ raise_exception('System role not supported') }}{% endif %}<start_of_turn>"
    "{{ 'model' if message['role'] == 'assistant' else message['role'] }}\n"
    "{{ message['content'] | trim }}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}"
    "[INST] {{ message['content'] }} [/INST]{% else %} {{ message['content'] }}{{ eos_token }}"
    "{% endif %}{% endfor %}"
)
PHI3 = (
    "{% for message in messages %}<|{{ message['role'] }}|>\n{{ message['content'] }}<|end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>\n{% else %}{{ eos_token }}{% endif %}"
)


@dataclass(frozen=True)
class Family:
    """How the tokenizers of a family are made.

    Attributes:
        special: All special tokens, from id 0.
        eos: The end token.
        template: The chat template, if the family's models have one.
        bos: The token that begins a text, put in front by the tokenizer itself.
        pad: The padding token.
        pieces: Whether words are pieces with ``▁`` for a space and bytes to fall back on, as
            SentencePiece makes them; otherwise texts are bytes.
    """

    special: tuple[str, ...]
    eos: str
    template: str | None
    bos: str | None = None
    pad: str | None = None
    pieces: bool = False


QWEN_FAMILY = Family(
    ("<|endoftext|>", "<|im_start|>", "<|im_end|>"), "<|im_end|>", CHATML, pad="<|endoftext|>"
)
SMOLLM_FAMILY = Family(QWEN_FAMILY.special, "<|im_end|>", CHATML, pad="<|im_end|>")
# Its end token is not the one that ends a turn, as in the base models of the family.
LLAMA3_FAMILY = Family(
    special=(
        "<|begin_of_text|>",
        "<|end_of_text|>",
        "<|start_header_id|>",
        "<|end_header_id|>",
        "<|eot_id|>",
    ),
    eos="<|end_of_text|>",
    template=LLAMA3,
    bos="<|begin_of_text|>",
)
GEMMA_FAMILY = Family(
    ("<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>"),
    "<eos>",
    GEMMA,
    bos="<bos>",
    pad="<pad>",
    pieces=True,
)
LLAMA2_FAMILY = Family(("<unk>", "<s>", "</s>"), "</s>", MISTRAL, bos="<s>", pieces=True)
PHI3_FAMILY = Family(
    ("<unk>", "<|endoftext|>", "<|assistant|>", "<|end|>", "<|user|>", "<|system|>"),
    "<|endoftext|>",
    PHI3,
    pieces=True,
)
GPT2_FAMILY = Family(("<|endoftext|>",), "<|endoftext|>", None)

GLM4 = (
    "[gMASK]<sop>{% for message in messages %}<|{{ message['role'] }}|>\n{{ message['content'] }}"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
GLM4_FAMILY = Family(
    ("<|endoftext|>", "[gMASK]", "<sop>", "<|system|>", "<|user|>", "<|assistant|>"),
    "<|endoftext|>",
    GLM4,
    pad="<|endoftext|>",
)

_HEADS = {"num_attention_heads": 2, "num_key_value_heads": 1}
_EXPERTS = {"moe_intermediate_size": 16, "num_experts_per_tok": 2, "head_dim": 8}
_WINDOW = {"head_dim": 8, "sliding_window": 16}


@dataclass(frozen=True)
class Architecture:
    """A kind of model: transformers' ``model_type``, its tokenizer and what sets it apart."""

    model_type: str
    family: Family
    values: dict[str, Any] = field(default_factory=lambda: dict(_HEADS))


ARCHITECTURES: dict[str, Architecture] = {
    "qwen2": Architecture("qwen2", QWEN_FAMILY, {**_HEADS, "tie_word_embeddings": True}),
    "llama3": Architecture("llama", LLAMA3_FAMILY),
    "smollm2": Architecture("llama", SMOLLM_FAMILY, {**_HEADS, "tie_word_embeddings": True}),
    "gemma": Architecture("gemma", GEMMA_FAMILY, {**_HEADS, "head_dim": 8}),
    "gemma2": Architecture("gemma2", GEMMA_FAMILY, {**_HEADS, **_WINDOW}),
    "gemma3": Architecture("gemma3_text", GEMMA_FAMILY, {**_HEADS, **_WINDOW}),
    "mistral": Architecture("mistral", LLAMA2_FAMILY, {**_HEADS, **_WINDOW}),
    "phi3": Architecture("phi3", PHI3_FAMILY),
    # Its answers end with no token of their own: whoever asks writes the next turn's.
    "glm4": Architecture("glm4", GLM4_FAMILY, {**_HEADS, "head_dim": 8}),
    "qwen3_moe": Architecture("qwen3_moe", QWEN_FAMILY, {**_HEADS, **_EXPERTS, "num_experts": 4}),
    "mixtral": Architecture("mixtral", LLAMA2_FAMILY, {**_HEADS, "num_local_experts": 4}),
    # Its logits are divided, here by no power of two.
    "granite": Architecture("granite", SMOLLM_FAMILY, {**_HEADS, "logits_scaling": 3.0}),
    # Positions are learned: padding must not move them.
    "gpt2": Architecture("gpt2", GPT2_FAMILY, {"num_attention_heads": 2}),
}


def make_tiny(
    directory: Path,
    architecture: str = "qwen2",
    *,
    layers: int = 2,
    width: int = 16,
    vocab_rows: int | None = None,
    template: str | None = "own",
    seed: int = 0,
    spread: float = 1.0,
    **changes: Any,
) -> str:
    """Write a tiny random model of an architecture, and its tokenizer.

    Args:
        directory: Where to.
        architecture: A key of ``ARCHITECTURES``.
        layers: How many.
        width: Of the hidden states.
        vocab_rows: Rows of the embeddings and the head, if more than the tokenizer has tokens.
        template: The chat template; ``own``: the family's; None: there is none.
        seed: Of the weights.
        spread: How much larger than usual the matrices are: then answers differ.
        **changes: Of the configuration.

    Returns:
        The directory.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    kind = ARCHITECTURES[architecture]
    tokenizer = make_tokenizer(kind.family, template)
    tokenizer.save_pretrained(directory)
    config = AutoConfig.for_model(
        kind.model_type,
        vocab_size=vocab_rows or len(tokenizer),
        hidden_size=width,
        num_hidden_layers=layers,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **{"intermediate_size": 2 * width} if architecture != "gpt2" else {"n_inner": 2 * width},
        **{"max_position_embeddings": 512, **kind.values, **changes},
    )
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config)
        for weights in model.parameters():
            if weights.dim() > 1:
                weights.mul_(spread)
        model.save_pretrained(directory)
    return str(directory)


def make_tokenizer(family: Family, template: str | None = "own") -> Any:
    """A fast tokenizer of the family, every byte or printable character a token."""
    from transformers import PreTrainedTokenizerFast

    backend = (_pieces if family.pieces else _bytes)(family.special)
    named = {"eos_token": family.eos, "bos_token": family.bos, "pad_token": family.pad}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        **{name: token for name, token in named.items() if token is not None},
        additional_special_tokens=[t for t in family.special if t not in named.values()],
        model_max_length=512,
    )
    if family.bos is not None:
        _begin_texts(backend, family.bos)
    tokenizer.chat_template = family.template if template == "own" else template
    return tokenizer


def _bytes(special: tuple[str, ...]) -> Any:
    """Byte-level BPE, as GPT-2, Qwen and Llama 3 have it."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    tokens = [*special, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _pieces(special: tuple[str, ...]) -> Any:
    """BPE over characters with bytes to fall back on, as SentencePiece's converted models."""
    from tokenizers import Tokenizer, decoders, models, normalizers

    characters = [c for c in printable if c != " "]
    tokens = [*special, *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *characters]
    vocabulary = {token: index for index, token in enumerate(dict.fromkeys(tokens))}
    model = models.BPE(vocabulary, merges=[], unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    replace: Callable[..., Any] = decoders.Replace
    tokenizer.decoder = decoders.Sequence(
        [replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    return tokenizer


def _begin_texts(backend: Any, bos: str) -> None:
    from tokenizers.processors import TemplateProcessing

    first = (bos, backend.token_to_id(bos))
    backend.post_processor = TemplateProcessing(single=f"{bos} $A", special_tokens=[first])
