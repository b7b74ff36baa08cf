"""Callbacks of ``Distiller``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from transformers import TrainerCallback


class OwnForward(TrainerCallback):  # type: ignore[misc]
    """Gives the student its own forward pass back, around which accelerate has put autocast.

    The loss and the rollouts have an autocast of their own; without this, a student that was
    trained in mixed precision would be scored in it, and the start and the teacher would not.
    """

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Undo accelerate's change."""
        # Accelerate's own way back would also remove the decorators of the model's class.
        model = kwargs["model"]
        original = vars(model).pop("_original_forward", None)
        if original is None:
            return
        del model.forward
        if original != model.forward:
            model.forward = original


class EndOfStep(TrainerCallback):  # type: ignore[misc]
    """Calls a function after each optimiser step, with True if counts are about to be read."""

    def __init__(self, call: Callable[[bool], None]) -> None:
        self._call = call

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Call the function."""
        last = state.global_step >= state.max_steps or control.should_training_stop
        self._call(last or control.should_log)
