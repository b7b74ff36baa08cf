"""Numbers and settings as text, for terminal, report and plots alike."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sweeper.analysis.comparison import ArmSummary, Comparison, Difference, Score
from sweeper.config.search import Objective
from sweeper.records import Cost, FailureKind, Outcome
from sweeper.records.study_record import TrialRecord
from sweeper.reporting.text.terminal_escape import visible

SHORT_NAMES = {
    "learning_rate": "lr",
    "per_device_train_batch_size": "batch",
    "gradient_accumulation_steps": "accumulation",
    "weight_decay": "decay",
    "warmup_ratio": "warmup",
    "lr_scheduler_type": "schedule",
    "temperature": "temp",
}
"""Short names of settings whose full name is too long for a table."""

FAILURE_NAMES: dict[FailureKind, str] = {
    "out_of_memory": "out of memory",
    "diverged": "diverged",
    "timeout": "timeout",
    "stalled": "stalled",
    "lost": "lost",
    "bad_input": "bad input",
    "full_disk": "full disk",
    "server": "server does not answer",
    "faulty_device": "faulty device",
    "driver": "driver",
    "failed_kernel": "failed kernel",
    "communication": "communication between devices",
    "device_assert": "device-side assert",
    "bug": "bug",
}
"""Kinds of failure in words."""

_UNITS = (("d", 86400, "h", 3600), ("h", 3600, "min", 60), ("min", 60, "s", 1))
"""Units of time with their seconds, each with the next smaller one."""

NOTHING = "–"
"""Placeholder for a missing value."""


def trial_states(comparison: Comparison) -> str:
    """Return what ``trial_counts`` counts, in its order."""
    return "ok/pruned/failed" if _any_pruned(comparison) else "ok/failed"


def trial_counts(arm: ArmSummary, comparison: Comparison) -> str:
    """Count the arm's trials by how they ended; pruned ones only if the study has any."""
    counts = arm.trials
    pruned = f"/{counts.pruned}" if _any_pruned(comparison) else ""
    return f"{counts.completed}{pruned}/{counts.failed}"


def _any_pruned(comparison: Comparison) -> bool:
    return any(arm.trials.pruned for arm in comparison.arms)


def objective(name: Objective, value: float, digits: int) -> str:
    """Format the value of an objective; a score with ``digits`` decimals."""
    if name == "score":
        return f"{value:.{digits}f}"
    return seconds(value) if name == "device_seconds" else count(round(value))


def number(value: Any, digits: int = 2) -> str:
    """Format a setting's value in few characters, floats rounded: 0.83, 1.2e-3, 128, true."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None:
        return "none"
    if isinstance(value, int):
        return str(value)
    if not isinstance(value, float):
        return visible(" ".join(str(value).split()))
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    if abs(value) < 0.01 or abs(value) >= 1e5:
        mantissa, _, exponent = f"{value:.{digits - 1}e}".partition("e")
        mantissa = mantissa.rstrip("0").rstrip(".") if "." in mantissa else mantissa
        return f"{mantissa}e{int(exponent)}"
    return f"{value:.{max(digits, len(str(int(abs(value)))))}g}"


def shortened(text: str, most: int) -> str:
    """Cut ``text`` to ``most`` characters, with an ellipsis at its end."""
    return text if len(text) <= most else f"{text[: most - 1]}…"


def settings(params: Mapping[str, Any], digits: int = 2) -> str:
    """Format sampled settings on one line: ``lmbda 0.83 · beta 0 · lr 1.2e-3``."""
    return " · ".join(
        f"{SHORT_NAMES.get(name, name)} {number(value, digits)}" for name, value in params.items()
    )


def trial_settings(trial: TrialRecord, digits: int = 2) -> str:
    """Format a trial's searched settings, with a mark and their source if some were given."""
    text = settings(trial.params, digits)
    if (enqueued := trial.enqueued) is None:
        return text
    return f"{text} (start_with{f': {enqueued.source()}' if enqueued.study else ''})"


def best_settings(arm: ArmSummary) -> str:
    """Format the sampled settings of an arm's best trial."""
    if arm.best is None:
        return NOTHING
    return settings(arm.best.params) or "nothing searched"


def best_cost(arm: ArmSummary) -> Cost | None:
    """Return the cost of an arm's best trial."""
    return arm.best.outcome.cost if arm.best and arm.best.outcome else None


def score_digits(values: Iterable[Score | None]) -> int:
    """Return the decimals of a table of scores: two digits of the smallest standard error."""
    errors = [value.stderr for value in values if value and value.stderr]
    return min(max(1 - math.floor(math.log10(min(errors))), 1), 5) if errors else 3


def comparison_digits(comparison: Comparison) -> int:
    """Return the ``score_digits`` of all scores in the comparison."""
    values = [arm.best_score for arm in comparison.arms]
    return score_digits([*values, comparison.teacher, comparison.starting_student])


def score(value: Score | None, digits: int) -> str:
    """Format a score with its standard error: ``0.787 ± 0.016``."""
    if value is None:
        return NOTHING
    error = "" if value.stderr is None else f" ± {value.stderr:.{digits}f}"
    return f"{value.score:.{digits}f}{error}"


def signed(number: float, digits: int) -> str:
    """Format a number with its sign; one that rounds to zero gets a plus."""
    return f"{round(number, digits) + 0.0:+.{digits}f}"


def difference(value: Difference | None, digits: int) -> str:
    """Format a signed difference with its standard error: ``+0.069 ± 0.023``."""
    if value is None:
        return NOTHING
    error = "" if value.stderr is None else f" ± {value.stderr:.{digits}f}"
    return f"{signed(value.value, digits)}{error}"


def arm_name(arm: ArmSummary) -> str:
    """Return the arm's name, with its method if that differs."""
    return arm.name if arm.name == arm.method else f"{arm.name} ({arm.method})"


def count(value: float) -> str:
    """Format a large count in few characters: 950, 96k, 1.2M."""
    for unit, size in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size * 0.9995:
            scaled = value / size
            return f"{scaled:.1f}{unit}" if scaled < 9.95 else f"{scaled:.0f}{unit}"
    return f"{value:.0f}"


def tokens(cost: Cost) -> str:
    """Format the tokens that a job trained on and sampled: ``96k / 64k``."""
    return f"{count(cost.trained_tokens)} / {count(cost.generated_tokens)}"


def seconds(value: float) -> str:
    """Format seconds as a bare number: 3.2, 58, 12,345."""
    return f"{value:.1f}" if value < 9.95 else f"{value:,.0f}"


def time_left(seconds: float) -> str:
    """Format a rough duration: ``about 3 min``, ``about 2 h 10 min``."""
    if seconds < 10:
        return "a few seconds"
    if seconds < 57.5:
        return f"about {math.ceil(seconds / 5) * 5} s"
    minutes = max(round(seconds / 60), 1)
    if minutes < 60:
        return f"about {minutes} min"
    if minutes < 24 * 60:
        tens = round(minutes / 10) * 10
        hours, rest = divmod(tens, 60)
        return f"about {hours} h {rest} min" if rest else f"about {hours} h"
    days, hours = divmod(round(minutes / 60), 24)
    return f"about {days} d {hours} h" if hours else f"about {days} d"


def duration(seconds: float) -> str:
    """Format a duration in its two largest units: ``0.8 s``, ``4 min 40 s``, ``2 h 10 min``."""
    for large, size, small, unit in _UNITS:
        first, rest = divmod(round(seconds / unit) * unit, size)
        if first:
            return f"{first} {large} {rest // unit} {small}" if rest else f"{first} {large}"
    return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"


def percent(share: float | None) -> str:
    """Format a share in whole per cent: ``76 %``."""
    return NOTHING if share is None else f"{share * 100:.0f} %"


def whole_percents(shares: Mapping[str, float]) -> dict[str, int]:
    """Round shares that sum to 1 to whole per cent that sum to 100, by largest remainder."""
    percents = {name: math.floor(share * 100) for name, share in shares.items()}
    left = round(sum(shares.values()) * 100) - sum(percents.values())
    by_remainder = sorted(shares, key=lambda name: percents[name] - shares[name] * 100)
    for name in by_remainder[:left]:
        percents[name] += 1
    return percents


def p_number(value: float) -> str:
    """Format a p-value: ``< 0.001``, or two significant digits."""
    return "< 0.001" if value < 0.001 else f"{value:.{2 if value >= 0.1 else 3}f}"


def p_value(value: float) -> str:
    """Format a p-value for a sentence: ``p = 0.032``."""
    return f"p {'' if value < 0.001 else '= '}{p_number(value)}"


def job_seconds(outcome: Outcome | None) -> str:
    """Format how long a job ran, by its own clock."""
    return NOTHING if outcome is None else seconds(max(outcome.finished - outcome.started, 0.0))


def trial_state(trial: TrialRecord) -> str:
    """Format how a trial ended, with the kind of failure: ``failed: out of memory``."""
    failure = trial.outcome.failure if trial.outcome else None
    return f"{trial.state}: {FAILURE_NAMES[failure.kind]}" if failure else trial.state


def listed(names: Iterable[str], word: str = "and") -> str:
    """Join names as in a sentence: ``a, b and c``."""
    *most, last = names
    return f"{', '.join(most)} {word} {last}" if most else last


def trial_numbers(numbers: Sequence[int]) -> str:
    """Format trials by number, with a count of the rest: ``#3, #5, #8, #9 and 12 more``."""
    shown = ", ".join(f"#{number}" for number in numbers[:4])
    return f"{shown} and {len(numbers) - 4} more" if len(numbers) > 4 else shown
