"""The language-model head: next-token logits from last hidden states.

Hidden states give the logits of a few positions at a time. Most models make logits by a linear
layer, some with a factor or a soft cap after it; a trial pass shows whether that holds for a model.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor, nn
from transformers import masking_utils

from sweeper.distillation.models.adapters import trained_copy
from sweeper.distillation.models.loading import without_adapter


@dataclass(frozen=True)
class LMHead:
    """The parts of a model that make its next-token logits.

    Attributes:
        model: Causal language model, with its wrappers.
        body: Part that gives the last hidden states; None if only the model gives logits.
        head: Module that makes logits of hidden states, or None.
        scale: Factor of the logits after the head (Granite, Cohere).
        cap: Soft cap after that, ``cap * tanh(logits / cap)``, or None.
    """

    model: Any
    body: Any = None
    head: Any = None
    scale: float = 1.0
    cap: float | None = None

    @classmethod
    def of(cls, model: Any, *, trained: bool) -> Self:
        """Find the body and the head of ``model``, and check them against its logits.

        Call it under the autocast that the model will be used under. A model that fails the check
        is read by its logits: one that does more to them, a PEFT method that puts tokens in front,
        a wrapper with its own forward pass (``DistributedDataParallel``).

        Args:
            model: Model that PEFT and accelerate may have wrapped; it is left as it was.
            trained: True for the student. Its head must then be a plain linear layer, neither
                adapted nor quantised. It must not compute in float16, whose gradients vanish unless
                the loss is scaled before they are made.
        """
        by_logits = cls(model)
        base = without_adapter(model)
        head = head_of(base)
        if head is None or base.get_decoder() is base:
            return by_logits
        if trained and (type(head) is not nn.Linear or head.weight.is_meta):
            return by_logits
        if trained and computing_dtype(head.weight) == torch.float16:
            return by_logits
        config = base.config.get_text_config()
        caps = (getattr(config, name, None) for name in _CAPS)
        cap = next((found for found in caps if found is not None), None)
        for scale in _scales(config):
            split = cls(model, base.get_decoder(), head, scale, cap)
            if split._gives_the_logits_of_the_model():
                return split
        return by_logits

    def of_copy(self, model: Any) -> Self:
        """Return the parts of another copy of the model, without a check."""
        if self.head is None:
            return replace(self, model=model)
        base = without_adapter(model)
        body, head = base.get_decoder(), head_of(base)
        return replace(self, model=model, body=body, head=head)

    def states(self, tokens: dict[str, Tensor], positions: Tensor) -> Tensor:
        """Return what the divergence reads of this model.

        Args:
            tokens: Inputs of the model, ``input_ids`` among them (batch × length).
            positions: Positions whose predictions count, as ``batches.counted_positions`` has them.

        Returns:
            The last hidden states (positions × width) or, without a body, the logits (positions ×
            vocabulary) of the positions that count.
        """
        device = next(self.model.parameters()).device
        tokens = {name: values.to(device) for name, values in tokens.items()}
        with _one_text_in_a_row():
            if self.body is None:
                with _exact_head(self.model):
                    states = self.model(**tokens, use_cache=False).logits
            else:
                states = self.body(**tokens, use_cache=False).last_hidden_state
        # By index: a mask would be read back from the device.
        gathered: Tensor = states.flatten(0, 1).index_select(0, positions.to(states.device))
        return gathered

    def logits(self, states: Tensor) -> Tensor:
        """Return the model's logits (positions × vocabulary) from what ``states`` gave.

        A plain linear head's are not rounded to less than float32, whatever it reads in; other
        heads' (quantized ones, adapters) are as the head computes them.
        """
        if type(self.head) is nn.Linear:
            weight, dtype = self.head.weight, computing_dtype(self.head.weight)
            logits = project(states.to(weight.device, dtype), weight.to(dtype), self.head.bias)
        else:
            logits = states if self.head is None else self.head(states)
        return scaled_and_capped(logits, self.scale, self.cap)

    @torch.no_grad()
    def _gives_the_logits_of_the_model(self) -> bool:
        """Return whether body, head and cap give the model's logits.

        They are compared on states that replace the body's and make logits of 1, 10, 100 and 1000:
        there a cap or a scale that this class does not apply shows.
        """
        device = next(self.model.parameters()).device
        ids = torch.arange(4, device=device)[None]
        tokens = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        seen: list[Tensor] = []

        def enlarge(_module: nn.Module, _inputs: Any, output: Any) -> Any:
            states = getattr(output, "last_hidden_state", None)
            if states is None:
                return output
            drawn = torch.randn(states.shape, generator=torch.Generator().manual_seed(0)).to(states)
            linear = replace(self, scale=1.0, cap=None)
            sizes = linear.logits(drawn).float().square().mean(-1, keepdim=True).sqrt()
            wanted = 10.0 ** torch.arange(states.shape[1])[:, None].to(states)
            output.last_hidden_state = drawn * (wanted / sizes.to(states))
            seen.extend((states, output.last_hidden_state))
            return output

        with _evaluating(self.model), _rounding_anew():
            hook = self.body.register_forward_hook(enlarge)
            try:
                logits = self.model(**tokens, use_cache=False).logits
            finally:
                hook.remove()
            if len(seen) != 2:
                return False
            states = self.body(**tokens, use_cache=False).last_hidden_state
            read = self.logits(seen[1])
        kinds = {computing_dtype(self.head.weight), states.dtype, logits.dtype}
        exact = kinds <= {torch.float32, torch.float64}
        return _agree(states, seen[0], exact) and _agree(read, logits, exact)


_CAPS = ("final_logit_softcapping", "logits_soft_cap", "output_logit_soft_cap")
"""Names of the soft cap in configurations."""


def head_of(base: Any) -> Any:
    """Return the module that makes logits, or its copy that an adapter trains."""
    if not hasattr(base, "get_output_embeddings"):
        return None
    return trained_copy(base.get_output_embeddings())


def _scales(config: Any) -> list[float]:
    """Return factors of the logits that a configuration may stand for; the trial pass decides.

    The same key divides in one model (Granite) and multiplies in another (HyperCLOVA X).
    """
    names = ("logits_scaling", "logit_scale", "lm_head_multiplier")
    values = [v for name in names if isinstance(v := getattr(config, name, None), int | float)]
    return [1.0, *(factor for value in values if value > 0 for factor in (value, 1 / value))]


@contextmanager
def _one_text_in_a_row() -> Iterator[None]:
    """Spare transformers the look for rows that hold several texts, which waits for the device."""
    look = masking_utils.find_packed_sequence_indices
    masking_utils.find_packed_sequence_indices = lambda position_ids: None
    try:
        yield
    finally:
        masking_utils.find_packed_sequence_indices = look


@contextmanager
def _exact_head(model: Any) -> Iterator[None]:
    """Let a plain linear head compute in float32 within the block, if it computes in 16 bits.

    So what a model does to its logits, and the divergence, begin with logits that are not rounded.
    """
    head = head_of(without_adapter(model))
    dtype = computing_dtype(head.weight) if type(head) is nn.Linear else torch.float32
    if dtype.itemsize > 2:
        yield
        return
    own = vars(head).get("forward")
    layer: Any = head  # a linear layer, whose method is replaced

    def forward(states: Tensor) -> Tensor:
        bias = None if layer.bias is None else layer.bias.float()
        with torch.autocast(states.device.type, enabled=False):
            states, weight = states.to(dtype).float(), layer.weight.to(dtype).float()
            return nn.functional.linear(states, weight, bias)

    layer.forward = forward
    try:
        yield
    finally:
        del layer.forward
        if own is not None:
            layer.forward = own


def computing_dtype(weight: Tensor) -> torch.dtype:
    """Return the dtype that a linear layer of this weight computes in, autocast considered."""
    kind = weight.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight.dtype


def product_dtype(states: Tensor) -> torch.dtype:
    """Return the dtype in which a head's products with ``states`` are computed without rounding.

    CUDA adds up products of 16-bit numbers in float32, and returns float32; elsewhere the numbers
    are widened before they are multiplied.
    """
    short = states.dtype in (torch.bfloat16, torch.float16)
    return states.dtype if states.is_cuda or not short else torch.float32


def project(states: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return a linear layer's outputs (… × outputs), accumulated and kept in float32.

    Under autocast, or with weights of 16 bits, a layer's own outputs are rounded to 16 bits.
    Float64 stays float64.

    Args:
        states: Hidden states (… × width).
        weight: The layer's weight (outputs × width).
        bias: The layer's bias (outputs), if it has one.
    """
    dtype = product_dtype(states)
    exact = torch.promote_types(dtype, torch.float32)
    states, weight = states.to(dtype), weight.to(dtype)
    with torch.autocast(states.device.type, enabled=False):
        outputs: Tensor
        if dtype == exact:
            outputs = states @ weight.t()
        else:
            flat = torch.mm(states.flatten(0, -2), weight.t(), out_dtype=exact)
            outputs = flat.reshape(*states.shape[:-1], -1)
        return outputs if bias is None else outputs.add_(bias.to(exact))


def add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """Add the product of two matrices to ``total``, in place, without rounding it to less.

    Args:
        total: Sum (rows × columns), at least in float32.
        left: Matrix (rows × inner) in the dtype of ``total``, or on CUDA in that of ``right``.
        right: Matrix (inner × columns).
    """
    if left.dtype == total.dtype:
        total.addmm_(left, right.to(total.dtype))
    else:
        torch.addmm(total, left, right, out_dtype=total.dtype, out=total)


def scaled_and_capped(logits: Tensor, scale: float, cap: float | None) -> Tensor:
    """Return the logits after a model's final scale and soft cap, if it has them."""
    logits = logits if scale == 1 else logits * scale
    return logits if cap is None else logits.div(cap).tanh_().mul_(cap)


def _agree(one: Tensor, other: Tensor, exact: bool) -> bool:
    """Return whether each position's values are the same but for rounding, to 16 bits or not."""
    if one.shape != other.shape:
        return False
    one, other = one.double(), other.to(one.device).double()
    allowed = (1e-4 if exact else 2e-2) * other.norm(dim=-1)
    return bool(((one - other).norm(dim=-1) <= allowed).all())


@contextmanager
def _rounding_anew() -> Iterator[None]:
    """Have autocast forget the weights that it rounds within the block.

    Older torch (2.9) would take them, which have no gradients, in passes that are to have some.
    """
    try:
        yield
    finally:
        torch.clear_autocast_cache()


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Put the model into evaluation mode within the block."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
