"""A teacher's forward pass, compiled where it reads whole sequences."""

from __future__ import annotations

from typing import Any

import torch

from sweeper.foundation.errors import BadInputError

KEY = ("teacher", "compile")
"""Key of the study file that errors name."""


def compile_reading(model: Any) -> None:
    """Compile the layers of ``model`` in place, for passes without a key-value cache.

    Those are the passes of a teacher in training. Decoding stays eager: there, every token would
    have a shape of its own.

    Raises:
        BadInputError: It cannot be compiled here.
    """
    body = model.get_decoder()
    eager = body.forward
    compiled = torch.compile(eager, dynamic=True)

    def forward(*args: Any, **kwargs: Any) -> Any:
        reads = kwargs.get("use_cache") is False and kwargs.get("attention_mask") is None
        return (compiled if reads else eager)(*args, **kwargs)

    body.forward = forward
    device = next(model.parameters()).device
    tokens = torch.zeros(2, 8, dtype=torch.long, device=device)
    try:
        with torch.no_grad():
            body(input_ids=tokens, use_cache=False)
    except Exception as error:  # of the compiler, of the architecture, of what is not installed
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        message = f"expected a model that torch.compile can compile here, but: {reason}"
        raise BadInputError(message, KEY) from error
