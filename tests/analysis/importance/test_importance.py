from __future__ import annotations

import random
import subprocess
import sys
from typing import Any

import numpy as np
import optuna
import pytest

from sweeper.analysis.importance.forest import MOST_TRIALS, fit_forests
from sweeper.analysis.importance.importance import Importance, parameter_importance
from sweeper.records.study_record import ArmRecord, TrialRecord
from tests.support.example_study import GKD_SEARCH, LR, arm, completed, example_study, trial
from tests.support.known_truth import known_arm

SEARCH: dict[str, Any] = {
    "lmbda": {"type": "float", "low": 0.0, "high": 1.0},
    "max_new_tokens": {"type": "int", "low": 16, "high": 256, "log": True},
    "seq_kd": {"type": "categorical", "choices": [True, False]},
}


def _arm(trials: list[TrialRecord], search: dict[str, Any] = SEARCH) -> ArmRecord:
    return arm("gkd", trials, search=search)


def _importance(record: ArmRecord, seed: int = 0) -> Importance | None:
    return parameter_importance(fit_forests(record, seed))


def _lmbda_decides(count: int) -> ArmRecord:
    rng = random.Random(0)
    trials = []
    for number in range(count):
        params = {
            "lmbda": rng.random(),
            "max_new_tokens": rng.randint(16, 256),
            "seq_kd": rng.choice([True, False]),
        }
        score = params["lmbda"] ** 2 + 0.001 * rng.random()
        trials.append(trial(number, completed(score), **params))
    return _arm(trials)


def test_the_setting_that_decides_the_score_is_found() -> None:
    importance = _importance(_lmbda_decides(40))

    assert importance is not None
    assert next(iter(importance.values)) == "lmbda"
    assert importance.values["lmbda"].low > 0.8
    assert sum(share.share for share in importance.values.values()) == pytest.approx(1.0)
    assert importance.conditional == {}


def test_settings_are_ranked_as_the_truth_is_with_intervals_that_hold_it() -> None:
    importance = _importance(known_arm(80))

    assert importance is not None
    shares = importance.values
    assert list(shares)[:3] == ["lmbda", "learning_rate", "beta"]
    true = {"lmbda": 0.0098, "learning_rate": 0.0012, "beta": 0.0004}
    for name in true:
        assert shares[name].low < true[name] / sum(true.values()) < shares[name].high
    for name in ("temperature", "max_new_tokens"):
        assert shares[name].share < shares["beta"].share / 2
    for share in shares.values():
        assert 0 <= share.low <= share.share <= share.high <= 1


def test_more_trials_make_the_intervals_narrower() -> None:
    few, many = _importance(known_arm(20)), _importance(known_arm(200))

    assert few is not None and many is not None
    widths = [one.values["lmbda"].high - one.values["lmbda"].low for one in (few, many)]
    assert widths[1] < widths[0] / 2


def test_it_is_what_optuna_estimates() -> None:
    record = known_arm(60)
    study = optuna.create_study(direction="maximize")
    floats = {"lmbda": (0.0, 1.0, False), "temperature": (0.3, 1.0, False)}
    floats["learning_rate"] = (1e-6, 1e-4, True)
    spaces = {n: optuna.distributions.FloatDistribution(*ends) for n, ends in floats.items()}
    for one in record.trials:
        assert one.outcome is not None and one.outcome.scores is not None
        params = {name: one.params[name] for name in spaces}
        value = one.outcome.scores.score
        frozen = optuna.trial.create_trial(params=params, distributions=spaces, value=value)
        study.add_trial(frozen)
    evaluator = optuna.importance.FanovaImportanceEvaluator(n_trees=16, seed=0)
    expected = optuna.importance.get_param_importances(study, evaluator=evaluator)

    search = {name: record.search[name] for name in spaces}
    importance = _importance(record.model_copy(update={"search": search}))

    assert importance is not None
    # Optuna weighs the learning rate by its logarithm, too.
    found = {name: share.share for name, share in importance.values.items()}
    np.testing.assert_allclose(
        [found[name] for name in spaces], [expected[name] for name in spaces], atol=0.1
    )


def test_the_same_records_give_the_same_numbers() -> None:
    record = _lmbda_decides(12)

    assert _importance(record, seed=3) == _importance(record, seed=3)
    assert _importance(record, seed=3) != _importance(record, seed=4)


def test_a_range_that_is_sampled_by_its_logarithm_is_weighed_by_it() -> None:
    # The score falls over the lowest decade alone: two thirds of the trials see no difference, but
    # on a linear scale it would be nearly all of them.
    rng = random.Random(1)
    trials = []
    for number in range(60):
        exponent, noise = rng.uniform(-5, -2), rng.random()
        score = (1.0 if exponent > -4 else 0.0) + 0.2 * noise
        trials.append(trial(number, completed(score), learning_rate=10**exponent, lmbda=noise))
    search = {"learning_rate": {**LR, "low": 1.0e-5, "high": 1.0e-2}, "lmbda": SEARCH["lmbda"]}

    importance = _importance(_arm(trials, search))

    assert importance is not None
    assert importance.values["learning_rate"].share > 0.8


def test_a_conditional_setting_is_estimated_where_it_was_sampled() -> None:
    importance = _importance(example_study().arms[0])

    assert importance is not None
    assert set(importance.values) == {"lmbda", "beta", "learning_rate"}
    assert set(importance.conditional) == {"temperature"}
    assert importance.conditional_trials < importance.trials == 10


def test_there_is_no_estimate_from_too_little() -> None:
    assert _importance(_lmbda_decides(5)) is None
    same = [
        trial(number, completed(0.5), lmbda=number / 10, max_new_tokens=16, seq_kd=True)
        for number in range(8)
    ]
    assert _importance(_arm(same)) is None
    assert _importance(_arm([], {})) is None


def test_a_single_setting_has_no_importance_to_compare() -> None:
    trials = [trial(number, completed(number / 10), lmbda=number / 10) for number in range(8)]

    assert _importance(_arm(trials, {"lmbda": SEARCH["lmbda"]})) is None


def test_trials_outside_the_search_space_are_left_out() -> None:
    record = _lmbda_decides(10)
    stray = trial(10, completed(9.0), lmbda=1.5, max_new_tokens=16, seq_kd=True)

    importance = _importance(_arm([*record.trials, stray]))

    assert importance is not None
    assert importance.trials == 10


def test_many_trials_are_thinned() -> None:
    importance = _importance(example_study(1000).arms[0])

    assert importance is not None
    assert importance.trials == MOST_TRIALS
    assert set(importance.values) | set(importance.conditional) == set(GKD_SEARCH)


def test_neither_analysis_nor_reporting_imports_heavy_libraries() -> None:
    program = """
import sys
import sweeper.analysis.comparison, sweeper.analysis.importance.lessons
import sweeper.reporting.console, sweeper.reporting.live, sweeper.reporting.markdown.report
heavy = {"torch", "transformers", "trl", "peft", "lm_eval", "mlflow", "optuna", "sklearn"}
heavy |= {"matplotlib.pyplot"}
print(sorted(heavy & set(sys.modules)))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
