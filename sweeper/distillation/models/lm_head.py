"""How a model's next-token logits come from its last hidden states.

Who has the hidden states can have the logits of some positions at a time. Most models' logits are a
linear layer's, after a soft cap in some; which is true of a model is found out by trying.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor, nn

from sweeper.distillation.models.loading import without_adapter


@dataclass(frozen=True)
class LMHead:
    """How the next-token logits of a model are read.

    Attributes:
        model: The causal language model, with what is wrapped around it.
        body: The part that gives the last hidden states, or None: then the model is asked for its
            logits.
        head: The module that makes logits of hidden states, or None.
        cap: If not None, logits pass through ``cap * tanh(logits / cap)`` after the head.
    """

    model: Any
    body: Any = None
    head: Any = None
    cap: float | None = None

    @classmethod
    def of(cls, model: Any, *, trained: bool) -> Self:
        """Find the body and the head of ``model``, and try them against its logits.

        Call it under the autocast that the model will be used under. A model that does not pass is
        read by its logits: one that scales them (Granite, Cohere), a PEFT method that puts tokens
        in front, a wrapper with a forward pass of its own (``DistributedDataParallel``).

        Args:
            model: May be wrapped by PEFT and by accelerate, and is left as it was.
            trained: Whether it is the student. Its head must then be a plain linear layer, which an
                adapter's or a quantised one is not, and not compute in float16, whose gradients
                vanish unless the loss is scaled before they are made.
        """
        whole = cls(model)
        base = without_adapter(model)
        head = base.get_output_embeddings() if hasattr(base, "get_output_embeddings") else None
        if head is None or base.get_decoder() is base:
            return whole
        if trained and (type(head) is not nn.Linear or head.weight.is_meta):
            return whole
        if trained and computing_dtype(head.weight) == torch.float16:
            return whole
        cap = getattr(base.config.get_text_config(), "final_logit_softcapping", None)
        split = cls(model, base.get_decoder(), head, cap)
        return split if split._gives_the_logits_of_the_model() else whole

    def of_copy(self, model: Any) -> Self:
        """How another copy of the model is read, which need not be tried."""
        if self.head is None:
            return replace(self, model=model)
        base = without_adapter(model)
        body, head = base.get_decoder(), base.get_output_embeddings()
        return replace(self, model=model, body=body, head=head)

    def states(self, tokens: dict[str, Tensor], counted: Tensor) -> Tensor:
        """What the divergence needs of this model.

        Args:
            tokens: The model's inputs, ``input_ids`` among them (batch × length).
            counted: Whether the prediction of the next token counts (batch × (length - 1)).

        Returns:
            The last hidden states (positions × width) or, without a body, the logits (positions ×
            vocabulary) of the positions that count.
        """
        device = next(self.model.parameters()).device
        tokens = {name: values.to(device) for name, values in tokens.items()}
        if self.body is None:
            states = self.model(**tokens, use_cache=False).logits
        else:
            states = self.body(**tokens, use_cache=False).last_hidden_state
        gathered: Tensor = states[:, :-1][counted.to(states.device)]
        return gathered

    def logits(self, states: Tensor) -> Tensor:
        """The logits (positions × vocabulary), before the cap, from what ``states`` gave."""
        logits: Tensor = states if self.head is None else self.head(states)
        return logits

    @torch.no_grad()
    def _gives_the_logits_of_the_model(self) -> bool:
        """Whether body, head and cap give the model's logits.

        They are compared where the model runs with states in place of its body's that make logits
        of 1, 10, 100 and 1000: there a cap or a scale that the readout does not know of shows.
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
            sizes = self.logits(drawn).float().square().mean(-1, keepdim=True).sqrt()
            wanted = 10.0 ** torch.arange(states.shape[1])[:, None].to(states)
            output.last_hidden_state = drawn * (wanted / sizes.to(states))
            seen.extend((states, output.last_hidden_state))
            return output

        with _evaluating(self.model):
            hook = self.body.register_forward_hook(enlarge)
            try:
                logits = self.model(**tokens, use_cache=False).logits
            finally:
                hook.remove()
            if len(seen) != 2:
                return False
            states = self.body(**tokens, use_cache=False).last_hidden_state
            read = capped(self.logits(seen[1]), self.cap)
        return _agree(states, seen[0]) and _agree(read, logits)


def computing_dtype(weight: Tensor) -> torch.dtype:
    """The dtype that a linear layer of this weight computes in, autocast considered."""
    kind = weight.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight.dtype


def capped(logits: Tensor, cap: float | None) -> Tensor:
    """The logits after a model's final soft cap, if it has one."""
    return logits if cap is None else logits.div(cap).tanh_().mul_(cap)


def _agree(one: Tensor, other: Tensor) -> bool:
    """Whether each position's values are the same but for the rounding of their dtypes."""
    if one.shape != other.shape:
        return False
    exact = {one.dtype, other.dtype} <= {torch.float32, torch.float64}
    one, other = one.double(), other.to(one.device).double()
    allowed = (1e-4 if exact else 2e-2) * other.norm(dim=-1)
    return bool(((one - other).norm(dim=-1) <= allowed).all())


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """The model without its dropout, for a while."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
