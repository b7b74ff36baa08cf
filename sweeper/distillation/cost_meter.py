"""Counts and costs of a training job, taken while it runs."""

from __future__ import annotations

import math
import time
from collections import defaultdict, deque
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor
from transformers import TrainerCallback

from sweeper.distillation.clocks import Clock, HostClock
from sweeper.foundation.errors import DivergedError
from sweeper.records import Cost, Rollouts

PROBES = 4
"""Number of times that a training compares the student with the teacher on fixed sequences."""
Report = Callable[[int, int, dict[str, float]], None]
"""Callback for the step, the number of steps, and the point of the training curve."""
Probe = Callable[[Any], float | None]
"""Function that measures a model, where it can."""


class CostMeter:
    """Counter of tokens and seconds of a training job, in total and since the last log line.

    What is counted is read at log points only: until then nothing waits for a device.

    Args:
        clock: Measures where the work is done; by default the host's clock.
        parts: Parts whose seconds are reported even if there are none.
    """

    def __init__(self, clock: Clock | None = None, parts: Collection[str] = ()) -> None:
        self.steps = 0
        self._clock: Clock = clock or HostClock()
        self._totals: dict[str, float] = defaultdict(float)
        self._totals.update({f"seconds_{part}": 0.0 for part in parts})
        self._since: dict[str, float] = defaultdict(float)
        self._parts: list[str] = []
        """Parts that are timed now, each inside the one before it."""
        self._mark: Any = None
        """Moment from which the innermost part is still to be timed."""
        self._laps: deque[tuple[str, Any, Any]] = deque()
        """Parts with moments between which they ran, as long as the clock has not reached them."""
        self._on_device: dict[str, Tensor] = {}
        """Counts that have not been read from a device."""

    @property
    def totals(self) -> dict[str, float]:
        """Counts of the whole training; reading them waits for the device."""
        self.settle()
        return self._totals

    @property
    def since(self) -> dict[str, float]:
        """Counts since the last log line; reading them waits for the device."""
        self.settle()
        return self._since

    def resume(self, totals: Mapping[str, float], since: Mapping[str, float], steps: int) -> None:
        """Add the totals of an earlier process, and put its other counts in place of these."""
        self.settle()
        for name, amount in totals.items():
            self._totals[name] += amount
        self._since = defaultdict(float, since)
        self.steps = steps

    def add(self, name: str, amount: float | Tensor) -> None:
        """Add to a count; a tensor of one number stays on its device until counts are read."""
        if isinstance(amount, Tensor):
            earlier = self._on_device.get(name)
            self._on_device[name] = amount if earlier is None else earlier + amount
            return
        self._totals[name] += amount
        self._since[name] += amount

    def raise_to(self, name: str, value: float) -> None:
        """Raise the largest value of a kind to this one, if it is smaller."""
        self._totals[name] = max(self._totals[name], value)
        self._since[name] = max(self._since[name], value)

    @contextmanager
    def timing(self, part: str) -> Iterator[None]:
        """Add the seconds of a block to ``seconds_<part>``, without those of parts inside it."""
        self.start(part)
        try:
            yield
        finally:
            self.stop()

    def start(self, part: str) -> None:
        """Begin to time a part; the one around it, if there is one, stands still."""
        self._lap()
        self._parts.append(part)

    def stop(self) -> None:
        """End the part that began last."""
        self._lap()
        self._parts.pop()

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

    def read(self) -> dict[str, float]:
        """Return shares, lengths and seconds since the last reading, and total token counts."""
        since, self._since = self.since, defaultdict(float)
        point = {name: self._totals[name] for name in ("trained_tokens", "generated_tokens")}
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

    def _lap(self) -> None:
        """Note that the innermost part ran until now."""
        now = self._clock.mark()
        if self._parts:
            self._laps.append((f"seconds_{self._parts[-1]}", self._mark, now))
        self._mark = now
        while self._laps and self._clock.has_reached(self._laps[0][2]):
            self._count_lap()

    def _count_lap(self) -> None:
        name, start, end = self._laps.popleft()
        self.add(name, self._clock.seconds(start, end))

    def settle(self) -> None:
        """Wait for what has been timed and counted on a device."""
        while self._laps:
            self._count_lap()
        counts, self._on_device = self._on_device, {}
        for name, amount in counts.items():
            self.add(name, float(amount))


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

    ``pause`` gets the step and the model, which it must not change; False ends training. What the
    device still has to do for the training is waited for, and counts for no pause.
    """

    def __init__(
        self, meter: CostMeter, steps: Collection[int], pause: Callable[[int, Any], bool]
    ) -> None:
        self._meter = meter
        self._steps = steps
        self._pause = pause

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Pause if this optimiser step is one of them."""
        if state.global_step not in self._steps:
            return
        self._meter.settle()
        if not self._pause(state.global_step, kwargs["model"]):
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

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Start timing: the gradients are ready."""
        self._meter.start("optimiser")

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Stop timing the optimiser."""
        self._meter.stop()

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
