"""The attention that a model asks for, and whether it works here."""

from __future__ import annotations

from collections.abc import Callable
from importlib import metadata

from transformers.utils import import_utils

from sweeper.config.models import ModelConfig
from sweeper.foundation.errors import BadInputError

_FLASH_ATTENTION: dict[str, tuple[str, Callable[[], bool]]] = {
    "flash_attention_2": ("flash-attn", import_utils.is_flash_attn_2_available),
    "flash_attention_3": ("flash-attn-3", import_utils.is_flash_attn_3_available),
    "flash_attention_4": ("flash-attn-4", import_utils.is_flash_attn_4_available),
}
"""Package of each implementation, and transformers' check before it looks on a hub instead."""


def check_attention(model: ModelConfig, *, here: bool = False) -> None:
    """Check that the flash attention that a model asks for is installed.

    The library would continue with code from a hub, or fail once the weights are loaded. With
    ``here``, it must also work in this process, on a visible device.

    Raises:
        BadInputError: It is not installed, or does not work here.
    """
    name = model.init_kwargs.get("attn_implementation")
    if not isinstance(name, str) or name not in _FLASH_ATTENTION:
        return
    package, works = _FLASH_ATTENTION[name]
    if not any(metadata.distributions(name=package)):
        raise BadInputError(
            f"{name} needs {package}, which is not installed: pip install {package}, or leave the"
            " key out for the model's default attention"
        )
    if here and not works():
        raise BadInputError(f"{name} needs a device that the installed {package} works on")
