"""Counts and costs of a training job, taken while it runs."""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from transformers import TrainerCallback

from sweeper.foundation.errors import DivergedError
from sweeper.records import Cost, Rollouts

PROBES = 4
"""Number of times that a training compares the student with the teacher on fixed sequences."""
Report = Callable[[int, int, dict[str, float]], None]
"""Callback for the step, the number of steps, and the point of the training curve."""
Probe = Callable[[Any], float | None]
"""Function that measures a model, where it can."""


@dataclass
class CostMeter:
    """Counter of tokens and seconds of a training job, in total and since the last log line."""

    synchronise: Callable[[], None] = lambda: None
    """Function that waits for the device, so that seconds count where the work is done."""
    totals: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    since: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    steps: int = 0

    def add(self, name: str, amount: float) -> None:
        """Add to a count."""
        self.totals[name] += amount
        self.since[name] += amount

    def raise_to(self, name: str, value: float) -> None:
        """Raise the largest value of a kind to this one, if it is smaller."""
        self.totals[name] = max(self.totals[name], value)
        self.since[name] = max(self.since[name], value)

    @contextmanager
    def timing(self, part: str) -> Iterator[None]:
        """Add the seconds of a block to ``seconds_<part>``."""
        started = self.now()
        try:
            yield
        finally:
            self.add(f"seconds_{part}", self.now() - started)

    def waited(self, role: str, seconds: float) -> None:
        """Add seconds to ``Cost.served``."""
        self.add(f"served_{role}", seconds)

    @contextmanager
    def waiting(self, role: str) -> Iterator[None]:
        """Add the seconds of a block to ``Cost.served``: those of a wait for a served model."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.waited(role, time.perf_counter() - started)

    def now(self) -> float:
        """Return the seconds of a clock, once the device is idle."""
        self.synchronise()
        return time.perf_counter()

    def read(self) -> dict[str, float]:
        """Return shares, lengths and seconds since the last reading, and total token counts."""
        since, self.since = self.since, defaultdict(float)
        point = {name: self.totals[name] for name in ("trained_tokens", "generated_tokens")}
        point.update({n: s for n, s in since.items() if n.startswith("seconds_")})
        if since["micro_batches"]:
            point["on_policy_share"] = since["on_policy"] / since["micro_batches"]
        if since["rollouts"]:
            means = _rollout_means(since)
            # Names of their own in a curve, which has other lengths too.
            named = {_IN_CURVES.get(name, name): mean for name, mean in means.items()}
            point |= {"rollouts": since["rollouts"], **named}
        return point

    def rollouts(self) -> Rollouts | None:
        """Return shares and lengths over the whole training; None before it has begun."""
        totals = self.totals
        if not totals["micro_batches"]:
            return None
        means = _rollout_means(totals) if totals["rollouts"] else {}
        return Rollouts(on_policy_share=totals["on_policy"] / totals["micro_batches"], **means)

    def cost(self) -> Cost:
        """Return the cost of training so far."""
        return Cost(
            steps=self.steps,
            trained_tokens=int(self.totals["trained_tokens"]),
            generated_tokens=int(self.totals["generated_tokens"]),
            seconds=self._named("seconds_"),
            served=self._named("served_"),
        )

    def _named(self, prefix: str) -> dict[str, float]:
        """Return the totals of a kind, by the rest of their names."""
        return {
            name.removeprefix(prefix): value
            for name, value in sorted(self.totals.items())
            if name.startswith(prefix)
        }


_MEANS = {
    "length": ("generated_tokens", "rollouts"),
    "truncated_share": ("truncated", "rollouts"),
    "ended_share": ("ended", "rollouts"),
    "repetition": ("repetition", "with_repetition"),
    "student_entropy": ("student_entropy", "generated_tokens"),
    "teacher_entropy": ("teacher_entropy", "generated_tokens"),
    "teacher_logprob": ("teacher_logprob", "generated_tokens"),
    "logprob_diff": ("logprob_diff", "with_logprobs"),
}
"""Means of rollouts by name: the counts that are divided by one another."""
_IN_CURVES = {
    "length": "rollout_length",
    "logprob_diff": "rollout_logprob_diff",
    "logprob_diff_max": "rollout_logprob_diff_max",
}
"""Names of a training curve's points, where they are others."""


def _rollout_means(counts: Mapping[str, float]) -> dict[str, float]:
    """Return the means of which there are counts; the stock trainers do not report them all."""
    means = {
        name: counts[total] / counts[number]
        for name, (total, number) in _MEANS.items()
        if total in counts and counts.get(number)
    }
    if "logprob_diff" in means:
        means["logprob_diff_max"] = counts["logprob_diff_max"]
    return means


class PauseCallback(TrainerCallback):  # type: ignore[misc]
    """Trainer callback that pauses training after some of its optimiser steps.

    ``pause`` gets the step and the model, which it must not change; False ends training.
    """

    def __init__(self, steps: Collection[int], pause: Callable[[int, Any], bool]) -> None:
        self._steps = steps
        self._pause = pause

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Pause if this optimiser step is one of them."""
        if state.global_step in self._steps and not self._pause(state.global_step, kwargs["model"]):
            control.should_training_stop = True


class MeterCallback(TrainerCallback):  # type: ignore[misc]
    """Trainer callback that times the optimiser and reports the training curve with its counts.

    ``probe`` measures a model's distance from the teacher, a few times in a training; it returns
    None where it cannot.
    """

    def __init__(self, meter: CostMeter, report: Report, probe: Probe | None = None) -> None:
        self._meter = meter
        self._report = report
        self._probe = probe
        self._probed: dict[str, float] = {}
        self._started = 0.0

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Start timing: the gradients are ready."""
        self._started = self._meter.now()

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Add the time of the optimiser."""
        self._meter.add("seconds_optimiser", self._meter.now() - self._started)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Count the optimiser step, and probe the student if it is time."""
        self._meter.steps = state.global_step
        last = state.global_step >= state.max_steps
        if self._probe and (last or state.global_step % max(1, state.max_steps // PROBES) == 0):
            with self._meter.timing("diagnostics"):
                divergence = self._probe(kwargs["model"])
            self._probed = {} if divergence is None else {"teacher_divergence": divergence}
        if last or self._probed:
            control.should_log = True

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Report a point of the training curve.

        Raises:
            DivergedError: The loss or the gradient norm is not finite.
        """
        if not logs or "loss" not in logs:
            return
        names = ("loss", "learning_rate", "grad_norm")
        point = {name: float(logs[name]) for name in names if name in logs}
        # With fp16 a gradient that overflows is part of finding the loss scale.
        for name in ("loss",) if args.fp16 else ("loss", "grad_norm"):
            if not math.isfinite(point.get(name, 0.0)):
                raise DivergedError(
                    f"The {name} is {point[name]} at step {state.global_step}: training diverged."
                )
        point |= self._probed
        self._probed = {}
        self._report(state.global_step, state.max_steps, {**point, **self._meter.read()})
