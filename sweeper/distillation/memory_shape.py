"""Size of a model, and memory of its passes, measured without its weights.

The model is made of tensors with shapes but no values (torch's meta device and ``FakeTensorMode``).
It reads sequences of three lengths, forward and backward, while the bytes of live tensors are
counted. So the counts are those of the model's own code; nothing is computed.
"""

from __future__ import annotations

import traceback
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import PretrainedConfig
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.pytorch_utils import Conv1D

from sweeper.config.models import ModelConfig, StudentConfig
from sweeper.distillation.data.compatibility import cut_to, token_ids
from sweeper.distillation.models.adapters import add_adapter
from sweeper.distillation.models.lm_head import head_of
from sweeper.distillation.models.loading import (
    read_config,
    stored_dtype,
    unpack,
    without_adapter,
    without_weights,
)
from sweeper.distillation.trainers import without_dropout
from sweeper.foundation.errors import BadInputError
from sweeper.records import Growth, ModelShape, ShapeRequest, StudyInputs, Training

_LENGTHS = (512, 1024, 1536)
"""Lengths of the sequences that are read, in tokens: activations must outweigh one layer."""
_FUSED = "sweeper_fused"
"""Name of an attention that keeps no pairs of tokens. For tensors without values the library's own
would make a mask, in case they hold several sequences."""
ALL_ATTENTION_FUNCTIONS.register(_FUSED, sdpa_attention_forward)
ALL_MASK_ATTENTION_FUNCTIONS.register(_FUSED, lambda *args, **kwargs: None)


def shapes_of(
    inputs: StudyInputs, wanted: Sequence[ShapeRequest], device: str
) -> tuple[ModelShape, ...]:
    """Return the shapes of models as the study's trials load them.

    Raises:
        BadInputError: A model cannot be read.
    """
    rows = token_ids(inputs.student)
    measured: dict[str, ModelShape] = {}
    shapes = []
    for request in wanted:
        # Quantized weights are counted, and read, as the weights that they are made of.
        original = request.model.model_copy(update={"quantization": None})
        key = request.model_copy(update={"model": original}).key()
        if key not in measured:
            try:
                local = unpack(original, Path(inputs.cache), inputs.model_folders)
                model = cut_to(local, rows)
                measured[key] = shape_of(model, device, autocast=request.autocast)
            except BadInputError:
                raise
            except Exception:  # from the model's own code; it can be trained all the same
                traceback.print_exc()
                measured[key] = _unknown(original)
        shapes.append(measured[key].model_copy(update={"quantization": request.model.quantization}))
    return tuple(shapes)


def shape_of(model: ModelConfig, device: str, *, autocast: str | None = None) -> ModelShape:
    """Return the shape of a model as it is loaded, for a student with the memory of its training.

    ``autocast`` is the type that its training computes in, if it is not that of the weights.

    Raises:
        BadInputError: Its configuration cannot be read, or it lacks layers of ``keep_layers``.
    """
    config = read_config(model)
    stored = int(config.get_text_config().num_hidden_layers)
    dtype = weights_dtype(model, config, device)
    computing: torch.dtype | None = getattr(torch, autocast) if autocast else None
    made: Any = without_weights(model, dtype, config)
    text = config.get_text_config()
    count = int(text.num_hidden_layers)
    if made.config._attn_implementation != "eager":
        made.set_attn_implementation(_FUSED)
    counts, body = _count(made), made.get_decoder()
    trained = isinstance(model, StudentConfig)
    lora = model.lora if isinstance(model, StudentConfig) else None
    if lora is not None:
        made = add_adapter(made, lora, {}, seed=0)
    parameters = sum(weights.numel() for weights in made.parameters())
    trainable = [weights for weights in made.parameters() if trained and weights.requires_grad]
    training = checkpointed = None
    with FakeTensorMode(allow_non_fake_inputs=True):
        made.to_empty(device="cpu")
        reading = _reading(body, computing)
        if trained:
            without_dropout(made)
            # The gradient of embeddings does not depend on the text: it is counted elsewhere.
            body.get_input_embeddings().requires_grad_(False)
            training = _training(body, computing)
            made.activation_checkpointing_enable()
            checkpointed = _training(body, computing)
    heads, head = int(text.num_attention_heads), head_of(without_adapter(made))
    return ModelShape(
        **counts,
        parameters=parameters,
        cut_parameters=(stored - count) * counts["linear_parameters"] // count,
        trainable_parameters=sum(weights.numel() for weights in trainable),
        largest_trainable=max((weights.numel() for weights in trainable), default=0),
        trainable_bytes=trainable[0].dtype.itemsize if trainable else dtype.itemsize,
        adapted=lora is not None,
        trains_head=trained and head is not None and head.weight.requires_grad,
        dtype_bytes=dtype.itemsize,
        computing_bytes=(computing or dtype).itemsize,
        quantization=model.quantization,
        hidden_size=int(text.hidden_size),
        layers=count,
        heads=heads,
        key_value_heads=int(getattr(text, "num_key_value_heads", None) or heads),
        head_size=int(getattr(text, "head_dim", None) or text.hidden_size // heads),
        vocabulary=int(text.vocab_size),
        reading=reading,
        training=training,
        checkpointed=checkpointed,
        unforeseen=_unforeseen(model, config),
    )


def _unknown(model: ModelConfig) -> ModelShape:
    """Return an empty shape, for a model whose own code cannot be followed without values."""
    counts = {name: 0 for name, field in ModelShape.model_fields.items() if field.annotation is int}
    why = f"the code of {model.model} cannot be followed without its weights"
    rest = {"adapted": False, "quantization": None, "training": None, "checkpointed": None}
    nothing = Growth(fixed=0, token=0, pair=0)
    return ModelShape.model_validate({**counts, **rest, "reading": nothing, "unforeseen": why})


def _unforeseen(model: ModelConfig, config: PretrainedConfig) -> str | None:
    """Return why the model's memory does not follow from its shape; None if it does."""
    role = "student" if isinstance(model, StudentConfig) else "teacher"
    if "device_map" in model.init_kwargs:
        return f"the {role}'s init_kwargs.device_map decides what lies on which device"
    if "quantization_config" in model.init_kwargs:
        return f"the {role}'s init_kwargs.quantization_config decides how weights are kept"
    if getattr(config, "quantization_config", None) is not None and not model.random_init:
        return f"the weights of the {role} {model.model} are stored quantized"
    return None


def weights_dtype(model: ModelConfig, config: PretrainedConfig, device: str) -> torch.dtype:
    """Return the type in which ``load_model`` keeps the weights."""
    whole_student = isinstance(model, StudentConfig) and model.lora is None
    if model.dtype == "auto" and not (device == "cpu" or whole_student or model.random_init):
        return stored_dtype(config)
    return getattr(torch, model.dtype, torch.float32)


def _count(model: Any) -> dict[str, int]:
    """Count parameters by their use."""
    head = model.get_output_embeddings()
    embeddings = model.get_input_embeddings().weight
    tied = head is None or head.weight is embeddings
    linear = [
        module.weight
        for module in model.modules()
        if isinstance(module, nn.Linear | Conv1D) and module is not head
    ]
    return {
        "embedding_parameters": embeddings.numel(),
        "head_parameters": 0 if tied else head.weight.numel(),
        "linear_parameters": sum(weight.numel() for weight in linear),
        "adapter_parameters": sum(sum(weight.shape) for weight in linear),
    }


class _Alive(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counter of the bytes of live tensors that are made under it; those of ``body`` do not count.

    Attributes:
        now: Live bytes.
        peak: Most live bytes so far.
    """

    def __init__(self, body: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = 0
        self._kept = [tensor.untyped_storage() for tensor in (*body.parameters(), *body.buffers())]
        self._known = {storage._cdata for storage in self._kept}

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Call the operation, and count its results until they are freed."""
        result = function(*args, **(kwargs or {}))
        tensors = (value for value in tree_leaves(result) if isinstance(value, Tensor))
        for storage in (tensor.untyped_storage() for tensor in tensors):
            if storage._cdata not in self._known:
                self._known.add(storage._cdata)
                self.now += storage.nbytes()
                self.peak = max(self.peak, self.now)
                weakref.finalize(storage, self._forget, storage._cdata, storage.nbytes())
        return result

    def _forget(self, key: int, size: int) -> None:
        """Stop counting a storage."""
        self._known.discard(key)
        self.now -= size


def _reading(body: Any, autocast: torch.dtype | None) -> Growth:
    """Return the peak memory of a forward pass, its last hidden states included."""
    peaks = []
    for length in _LENGTHS:
        with _Alive(body) as alive, torch.no_grad(), _autocast(autocast):
            body(input_ids=_tokens(length), use_cache=False)
        peaks.append(alive.peak)
    return _through(peaks)


def _training(body: Any, autocast: torch.dtype | None) -> Training:
    """Return the memory kept between forward and backward, and the peak."""
    body.train()
    for weights in body.parameters():
        if weights.requires_grad:
            # Gradients of weights are counted elsewhere; here each is dropped once complete.
            weights.register_post_accumulate_grad_hook(_drop)
    kept, peaks = [], []
    for length in _LENGTHS:
        with _Alive(body) as alive:
            with _autocast(autocast):
                states = body(input_ids=_tokens(length), use_cache=False).last_hidden_state
            kept.append(alive.now)
            states.sum().backward()
        peaks.append(alive.peak)
    return Training(kept=_through(kept), peak=_through(peaks))


def _tokens(length: int) -> Tensor:
    return torch.zeros(1, length, dtype=torch.int64)


def _autocast(dtype: torch.dtype | None) -> torch.autocast:
    return torch.autocast("cpu", dtype, enabled=dtype is not None)


def _drop(weights: Tensor) -> None:
    weights.grad = None


def _through(values: Sequence[int]) -> Growth:
    """Fit the quadratic through the values at ``_LENGTHS``."""
    first, second, third = values
    step = _LENGTHS[1] - _LENGTHS[0]
    pair = (third - 2 * second + first) / (2 * step**2)
    token = (second - first) / step - pair * (_LENGTHS[0] + _LENGTHS[1])
    fixed = first - token * _LENGTHS[0] - pair * _LENGTHS[0] ** 2
    return Growth(fixed=fixed, token=token, pair=pair)
