"""The models of a study, and what is trained of the student."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import Field, ValidationInfo, field_validator, model_validator

from sweeper.config.base import (
    Dtype,
    JsonMapping,
    PositiveFloat,
    PositiveInt,
    Problems,
    Scalar,
    Strict,
    short,
)
from sweeper.config.server import Server

Quantization = Literal["int8", "int4"]
START = "student"
"""An arm's ``teacher.model`` that stands for the student that all arms start from."""


class ModelConfig(Strict):
    """A causal language model: a hub id, a directory, or `builtin/NAME`."""

    model: Annotated[str, Field(min_length=1)]
    """A hub id, a local directory, or `builtin/NAME`."""
    revision: str | None = None
    """The hub revision: a branch, tag or commit."""
    dtype: Dtype = "auto"
    """The type of the weights; `auto`: float32 on CPU and for a student that is trained whole
    (in bfloat16 small updates round away), else as stored."""
    quantization: Quantization | None = None
    """Round the weights of linear layers, but not the head's, to 8 bits (LLM.int8) or 4 (NF4) by
    bitsandbytes: `pip install 'sweeper[quantization]'`. A student then needs `lora` (QLoRA)."""
    vocab_size: PositiveInt | None = None
    """Leave out the rows of the embeddings and of the head from this token id on: padding, which
    no token of the tokenizer has. By default the smaller one's where teacher and student differ."""
    compile: bool = False
    """Compile the teacher's forward pass on whole sequences (`torch.compile`); not for a
    student."""
    trust_remote_code: bool = False
    """Run code that comes with the model. Only for models that you have read."""
    init_kwargs: JsonMapping = {}
    """Further arguments of `from_pretrained`, such as `attn_implementation` and `device_map`."""
    chat_template_kwargs: JsonMapping | None = None
    """Arguments of the teacher's own chat template. With this key, `{}` included, the teacher
    answers and is scored on prompts in its own template; without it, in the student's. Where its
    distribution is compared with the student's, it reads the student's text."""
    random_init: bool = False
    """Start from random weights drawn from the study's seed; only the configuration is read."""
    keep_layers: (
        Annotated[int, Field(ge=2)]
        | Annotated[
            tuple[Annotated[int, Field(ge=0)], ...],
            Field(min_length=1, json_schema_extra={"uniqueItems": True}),
        ]
        | None
    ) = None
    """Layers that a student keeps, without the others: a number of layers, evenly spread with the
    first and the last among them; or a list of layers, counted from 0."""
    server: Server | None = None
    """A server that gives the teacher's answers, and, if it is vLLM's, its judgement. Trials then
    do not load the teacher. `{url: …}`: one elsewhere. `{start: vllm}`: one that sweeper starts."""

    def has_tokenizer(self) -> bool:
        """Return True if the model's configuration and tokenizer are read; else it is a name."""
        return self.server is None or self.server.gives_tokens

    def is_eager(self) -> bool:
        """Return whether the model computes its attention step by step, without a fused kernel."""
        return self.init_kwargs.get("attn_implementation") == "eager"

    @model_validator(mode="before")
    @classmethod
    def _understand_other_spellings(cls, values: Any) -> Any:
        return _in_our_words(values) if isinstance(values, dict) else values

    @field_validator("keep_layers", mode="before")
    @classmethod
    def _check_layers(cls, keep: Any) -> Any:
        problems = Problems()
        if isinstance(keep, list | tuple):
            for index, layer in enumerate(keep):
                if not _is_count(layer, 0):
                    message = f"expected the number of a layer, from 0, found {short(layer)}"
                    problems.add((index,), message)
                elif layer in keep[:index]:
                    problems.add((index,), f"expected each layer once, found {short(layer)} again")
            if not keep:
                problems.add((), "expected at least one layer, found []")
        elif keep is not None and not _is_count(keep, 2):
            message = f"expected at least 2 layers, or a list of layers, found {short(keep)}"
            problems.add((), message)
        problems.raise_if_any()
        return tuple(sorted(keep)) if isinstance(keep, list | tuple) else keep

    @field_validator("init_kwargs", mode="after")
    @classmethod
    def _check_init_kwargs(
        cls, init_kwargs: dict[str, Any], info: ValidationInfo
    ) -> dict[str, Any]:
        problems = Problems()
        trusted = bool(info.data.get("trust_remote_code"))
        for name, value in init_kwargs.items():
            if message := init_kwarg_problem(name, value, trusted=trusted):
                problems.add((name,), message)
        problems.raise_if_any()
        return init_kwargs

    @model_validator(mode="after")
    def _check_quantization(self) -> Self:
        problems = Problems()
        if self.quantization is not None and self.random_init:
            message = "expected no quantization of random weights"
            problems.add(("quantization",), message)
        if self.quantization is not None and "quantization_config" in self.init_kwargs:
            message = "expected either this key or init_kwargs.quantization_config, found both"
            problems.add(("quantization",), message)
        problems.raise_if_any()
        return self


def _in_our_words(values: dict[str, Any]) -> dict[str, Any]:
    """Understand `torch_dtype`, also among `init_kwargs`, and `int8` and `int4` for a type.

    Other tools spell the types of weights and their quantization so.
    """
    said = dict(values)
    options = said.get("init_kwargs")
    found = [said.pop(name) for name in ("torch_dtype", "dtype") if name in said]
    if isinstance(options, dict):
        found += [options[name] for name in ("torch_dtype", "dtype") if name in options]
        kept = {k: v for k, v in options.items() if k not in ("torch_dtype", "dtype")}
        said["init_kwargs"] = kept
    problems = Problems()
    for kind in found:
        key = "quantization" if kind in get_args(Quantization) else "dtype"
        if said.setdefault(key, kind) != kind:
            message = f"expected one, found both {short(said[key])} and {short(kind)}"
            problems.add((key,), message)
    problems.raise_if_any()
    return said


_BESIDE_MODEL = {
    "dtype": "dtype",
    "torch_dtype": "dtype",
    "load_in_4bit": "quantization",
    "load_in_8bit": "quantization",
    "revision": "revision",
    "trust_remote_code": "trust_remote_code",
}
"""Arguments that have keys of their own, which reports show and other places rely on."""
_FIXED = {
    "use_safetensors": "weights are read from safetensors files only",
    "weights_only": "weights are read from safetensors files only",
    "state_dict": "weights are read from the model's own files",
    "config": "the configuration is read from the model's own files",
    "pretrained_model_name_or_path": "the key model says which model it is",
}
_FOREIGN_CODE = ("allow_all_kernels", "use_kernels", "kernel_config", "code_revision")
"""Arguments that load code from a hub, or say which."""


def init_kwarg_problem(name: str, value: Any, *, trusted: bool = False) -> str | None:
    """Say why ``from_pretrained`` cannot be given this argument; None if it can.

    Args:
        name: The argument.
        value: Its value.
        trusted: True if ``trust_remote_code`` is on, as a key of its own.
    """
    if key := _BESIDE_MODEL.get(name):
        return f"expected the key {key} next to model, found {name!r} here"
    if reason := _FIXED.get(name):
        return f"{name!r} cannot be set: {reason}"
    if name.startswith("_"):
        return f"expected the library's public name, {name.lstrip('_')}, found {name!r}"
    # An attention with a slash in its name is the name of a repository with a kernel.
    kernel = name == "attn_implementation" and isinstance(value, str) and "/" in value
    if (kernel or name in _FOREIGN_CODE) and not trusted:
        return f"{name!r} loads code from a hub, which needs trust_remote_code: true next to model"
    return None


def _is_count(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def with_settings(
    teacher: ModelConfig, values: Mapping[str, Scalar], start: ModelConfig
) -> ModelConfig:
    """Return the study's teacher with an arm's own settings.

    Args:
        teacher: The study's.
        values: ``model``, ``dtype``, ``quantization`` or ``init_kwargs.NAME``.
        start: Model that all arms start from, which ``model: student`` stands for.
    """
    if values.get("model") == START:
        values = {name: value for name, value in values.items() if name != "model"}
        return with_settings(start, values, start)
    options = dict(teacher.init_kwargs)
    changed: dict[str, Any] = {}
    for name, value in values.items():
        if name.startswith("init_kwargs."):
            options[name.removeprefix("init_kwargs.")] = value
        else:
            changed[name] = value
    base = teacher.model_dump()
    if "model" in changed:
        # These are about the study's teacher only.
        base = {k: v for k, v in base.items() if k not in ("vocab_size", "revision")}
    return ModelConfig.model_validate({**base, **changed, "init_kwargs": options})


HEADS = ("lm_head", "embed_out", "output_layer")
"""Names of heads; those of other models are found on the model itself."""
NO_HEAD = (
    "the losses read the head's own weight, not an adapter on it; leave it out, or put a head that"
    " is not tied to the embeddings into modules_to_save, which trains it whole"
)


class LoraConfig(Strict):
    """Train a low-rank adapter instead of the whole student."""

    r: PositiveInt = 16
    """The rank."""
    alpha: PositiveFloat = 32.0
    """The scale; the adapter's output is multiplied by alpha / r."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Dropout on the adapter's input; `disable_dropout` turns it off."""
    target_modules: Annotated[tuple[str, ...], Field(strict=False)] | Literal["all-linear"] = (
        "all-linear"
    )
    """The modules that get an adapter, by the ends of their names; never the head."""
    use_rslora: bool = False
    """Multiply the adapter's output by alpha / √r instead (rsLoRA)."""
    use_dora: bool = False
    """Train the size of each weight's columns as well (DoRA); slower."""
    modules_to_save: Annotated[tuple[str, ...], Field(strict=False)] = ()
    """The modules that are trained whole next to the adapter, by the ends of their names."""


class StudentConfig(ModelConfig):
    """The student: a model, and how it is trained."""

    lora: LoraConfig | None = None
    """Train an adapter; by default all weights are trained."""

    def before_training(self) -> ModelConfig:
        """Return the model without an adapter, in the type of its weights in training."""
        values = self.model_dump(exclude={"lora"})
        if self.lora is None and self.dtype == "auto":
            values["dtype"] = "float32"
        return ModelConfig.model_validate(values)

    @model_validator(mode="after")
    def _check_adapter(self) -> Self:
        problems = Problems()
        if self.quantization is not None and self.lora is None:
            message = (
                "expected lora next to it: quantized weights stay as they are, and only an adapter"
                " on them is trained"
            )
            problems.add(("quantization",), message)
        problems.raise_if_any()
        return self
