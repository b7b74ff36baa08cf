"""Numbers of the forecast of memory that arithmetic does not give, and where they come from.

``make gpu`` sets measured peaks next to forecasts. Once a GPU has been measured, its numbers, its
name and the command go into these tables, and ``sweeper check`` calls them assumed no more.
"""

from __future__ import annotations

from dataclasses import dataclass

from sweeper.commands.check.memory_terms import GIB, DeviceKind, Part

_CPU = "2 shared CPU cores"
_MEMORY = "python -m benchmarks.memory"


@dataclass(frozen=True)
class Constant:
    """A number, and what was measured to get it."""

    value: float
    device: str | None = None
    """Device that it was measured on; None: it is assumed."""
    command: str | None = None
    """Command that measures it."""


LIBRARIES: dict[DeviceKind, Constant] = {
    "cpu": Constant(0.9 * GIB, _CPU, _MEMORY),
    "cuda": Constant(0.6 * GIB),
    "mps": Constant(0.3 * GIB),
}
"""Bytes of a process without its tensors; on a CPU with the losses of the C library's heap."""
SCATTERED: dict[DeviceKind, Constant] = {"cpu": Constant(0.4, _CPU, _MEMORY)}
"""Share of the activations that a heap takes with gradient checkpointing; fitted."""
LAYERS_TOGETHER: dict[DeviceKind, Constant] = {
    "cpu": Constant(4, _CPU, _MEMORY),
    "cuda": Constant(4),
    "mps": Constant(4),
}
"""Layers of a divided student that are whole at a time: the weights of the current and of the next
one, and in the backward pass a layer's gradients and their copy that is sent."""
STOCK_TENSORS, STOCK_TENSORS_AT_AN_END = 17, 9
"""Most tensors of the logits' size that stock TRL keeps in its divergence; counted."""

ASSUMED: dict[DeviceKind, tuple[Part, ...]] = {
    "cpu": (),
    # Kernels for a GPU keep other activations and workspaces than the counted ones; graphs of
    # decoding and what the allocator cannot use are not known.
    "cuda": ("activations", "libraries", "logits and loss", "rollouts", "scoring"),
    "mps": ("activations", "libraries", "logits and loss", "rollouts", "scoring"),
}
"""Parts of a forecast that no measurement on such a device stands behind."""
NAMES: dict[DeviceKind, str] = {"cpu": "a CPU", "cuda": "a GPU", "mps": "Apple's GPU"}


def assumption(parts: dict[Part, float], kind: DeviceKind) -> str:
    """Return what of a forecast is assumed, in words; empty if nothing is.

    Args:
        parts: Bytes by purpose; those that take little are left out.
        kind: Kind of device.
    """
    least = 0.005 * sum(parts.values())
    named = [part for part in ASSUMED[kind] if parts.get(part, 0.0) >= least]
    return f"assumed, not measured on {NAMES[kind]}: {', '.join(named)}" if named else ""
