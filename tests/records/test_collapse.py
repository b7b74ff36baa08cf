"""Signs of collapse in made-up training curves, and none in healthy ones."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sweeper.commands.check.settings import settings_findings
from sweeper.config.collapse import CollapseConfig
from sweeper.config.loading import load_study
from sweeper.records import CollapseSign, TrialSpec
from sweeper.records.collapse import CollapseWatch
from tests.support.trial_jobs import trial_spec

STEPS = 100
HEALTHY = {
    "rollouts": 16.0,
    "rollout_length": 40.0,
    "truncated_share": 0.1,
    "ended_share": 0.9,
    "repetition": 0.1,
    "student_entropy": 1.0,
    "teacher_entropy": 0.5,
    "teacher_logprob": -2.0,
}
ILL: dict[str, dict[str, float]] = {
    "length": {"rollout_length": 62.0, "truncated_share": 0.6, "ended_share": 0.05},
    "endless": {"rollout_length": 55.0, "truncated_share": 0.95, "ended_share": 0.05},
    "repetition": {"repetition": 0.6},
    "entropy": {"student_entropy": 0.1},
}
NOT_YET: dict[str, dict[str, float]] = {
    "long, not cut": {"rollout_length": 90.0, "truncated_share": 0.4, "ended_share": 0.6},
    "cut, not longer": {"truncated_share": 0.85, "ended_share": 0.15},
    "at the threshold": {"repetition": 0.5},
    "perhaps as certain as its served teacher": {
        "student_entropy": 0.1,
        "teacher_entropy": math.nan,
    },
    "as certain as its teacher": {"student_entropy": 0.1, "teacher_entropy": 0.1},
    "what the stock trainer reports": {
        name: math.nan for name in HEALTHY if name not in ("rollouts", "rollout_length")
    },
}
Points = list[dict[str, float]]


@pytest.fixture
def spec(write_study: Callable[..., Path]) -> TrialSpec:
    arms = {"gkd": {"settings": {"lmbda": 1.0}}}
    return trial_spec(load_study(write_study(training={"max_steps": STEPS}, arms=arms)), "gkd")


def changed(spec: TrialSpec, **values: Any) -> TrialSpec:
    origin = spec.origin.model_copy(update={"collapse": CollapseConfig(**values)})
    return spec.model_copy(update={"origin": origin})


def judged(spec: TrialSpec, points: Points) -> list[CollapseSign]:
    watch = CollapseWatch(spec)
    steps = range(1, len(points) + 1)
    return [s for step, point in zip(steps, points, strict=True) for s in watch.add(step, point)]


def then(healthy: int, ill: dict[str, float], count: int) -> Points:
    known = {name: value for name, value in {**HEALTHY, **ill}.items() if not math.isnan(value)}
    return [{n: HEALTHY[n] for n in known}] * healthy + [known] * count


@pytest.mark.parametrize("kind", ILL)
def test_each_sign_needs_three_windows_and_comes_once(spec: TrialSpec, kind: str) -> None:
    # 32 rollouts are two points, so three windows are six.
    assert judged(spec, then(20, ILL[kind], 5)) == []
    [sign] = judged(spec, then(20, ILL[kind], 60))
    assert (sign.kind, sign.step) == (kind, 26)
    assert sign.told().startswith(f"at step 26 {sign.message}. Try {sign.remedies[0]}")
    assert "(collapse." in sign.message
    interrupted = [*then(20, ILL[kind], 5), *then(2, {}, 0), *then(0, ILL[kind], 5)]
    assert judged(spec, interrupted) == []


@pytest.mark.parametrize("name", NOT_YET)
def test_nothing_less_is_a_sign(spec: TrialSpec, name: str) -> None:
    assert judged(spec, then(20, NOT_YET[name], 60)) == []


def test_a_curve_without_rollouts_shows_nothing(spec: TrialSpec) -> None:
    assert judged(spec, [{"loss": 1.0}] * STEPS) == []


def test_thresholds_grace_and_windows_are_the_studys(spec: TrialSpec) -> None:
    points = then(0, ILL["repetition"], STEPS)
    steps = {
        (): 16,  # a tenth of the steps, then six points
        (("grace", 0.5),): 56,
        (("grace", 0.0),): 12,  # six points of the start, then six more
        (("min_rollouts", 16), ("grace", 0.0)): 6,
        (("repetition", 0.7),): None,
    }
    for changes, step in steps.items():
        signs = judged(changed(spec, **dict(changes)), points)
        assert [sign.step for sign in signs] == ([] if step is None else [step]), changes


def test_remedies_name_keys_that_can_move(spec: TrialSpec) -> None:
    def remedies(kind: str, **settings: Any) -> str:
        changed = spec.settings.model_copy(update=settings)
        [sign] = judged(spec.model_copy(update={"settings": changed}), then(20, ILL[kind], 6))
        return " ".join(sign.remedies)

    assert "lower beta" in remedies("entropy", beta=0.5)
    assert "lower beta" not in remedies("entropy", beta=0.0)
    assert "higher temperature" in remedies("repetition", temperature=0.3)
    assert "higher temperature" not in remedies("repetition", temperature=1.0)
    assert "teacher_signal: exact with a lower lmbda" in remedies(
        "length", teacher_signal="sampled"
    )
    assert "warm_start" in remedies("endless")


def test_chance_raises_no_alarm(spec: TrialSpec) -> None:
    """A student that ends three of ten answers, with few rollouts a point, over long trainings."""
    draw = random.Random(0)
    alarms = 0
    for _ in range(60):
        points = []
        for _ in range(200):
            count = draw.choice([0, 4, 8, 12])
            if count == 0:
                points.append({})
                continue
            ended = sum(draw.random() < 0.3 for _ in range(count)) / count
            repeated = sum(draw.betavariate(2, 4) for _ in range(count)) / count
            length = sum(draw.expovariate(1 / 40) for _ in range(count)) / count
            point = {"ended_share": ended, "truncated_share": 1 - ended, "repetition": repeated}
            entropy = draw.lognormvariate(-0.7, 0.5)
            point |= {"student_entropy": entropy, "rollout_length": length}
            points.append({**HEALTHY, **point, "rollouts": float(count)})
        alarms += len(judged(spec, points))
    assert alarms == 0


@pytest.mark.parametrize("logging_steps", [1, 30, 100])
@pytest.mark.parametrize("min_rollouts", [4, 100])
@pytest.mark.parametrize("grace", [0.1, 0.7])
@pytest.mark.parametrize("length", [{"max_steps": 20}, {"max_steps": 300}, {"num_train_epochs": 2}])
def test_check_says_where_no_failure_could_be_seen(
    write_study: Callable[..., Path],
    length: dict[str, Any],
    grace: float,
    min_rollouts: int,
    logging_steps: int,
) -> None:
    """Of a training that fails after its start in every way, and logs as ``check`` expects."""
    rows, batch = 80, 4
    study = load_study(
        write_study(
            training={
                **length,
                "logging_steps": logging_steps,
                "per_device_train_batch_size": batch,
            },
            arms={"gkd": {"settings": {"lmbda": 1.0}}},
            collapse={"grace": grace, "min_rollouts": min_rollouts},
        )
    ).config
    said = [f for f in settings_findings(study, rows=rows) if "collapse changes" in f.detail]
    steps = length.get("max_steps", 2 * rows // batch)
    spec = trial_spec(load_study(write_study(training={"max_steps": steps})), "gkd")
    watch = CollapseWatch(changed(spec, grace=grace, min_rollouts=min_rollouts))
    ill = HEALTHY | ILL["repetition"] | ILL["entropy"]
    seen, rollouts = [], 0
    for step in range(logging_steps, steps + 1, logging_steps):
        began = rollouts >= 3 * min_rollouts
        rollouts += batch * logging_steps
        point = {**(ill if began else HEALTHY), "rollouts": float(batch * logging_steps)}
        seen += watch.add(step, point)
    assert bool(said) != bool(seen), (said, seen)
