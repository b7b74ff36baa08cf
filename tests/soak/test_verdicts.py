"""Whole studies of which is known how they must end."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from tests.support.tiny_studies import ROOT, adder_study, adder_suite, write_yaml
from tests.support.whole_studies import WholeStudy

pytestmark = pytest.mark.soak

HELPS = ROOT / "studies" / "on-policy-helps.yaml"
SEEDS = 20
LIMIT = 1800.0
"""Seconds for one study."""
MOST_FALSE = 3
"""False positives in 20 studies: at 5 %, there are more in 1.6 % of cases."""
RATE = {"learning_rate": {"type": "float", "low": 1e-3, "high": 3e-3, "log": True}}


def verdicts(study: WholeStudy) -> list[dict[str, Any]]:
    """How it ends."""
    study.check(study.run())
    found: list[dict[str, Any]] = json.loads(study.run("--json", command="report").stdout)[
        "verdicts"
    ]
    return found


def written(directory: Path, **changes: Any) -> WholeStudy:
    """The study that is built so that on-policy training helps, or a change of it."""
    study = {**YAML(typ="safe", pure=True).load(HELPS.read_text(encoding="utf-8")), **changes}
    study |= {"study": "tiny", "evaluation": {"selection": "selection.yaml", "test": "test.yaml"}}
    write_yaml(directory / "selection.yaml", adder_suite("selection", 0, 200))
    write_yaml(directory / "test.yaml", adder_suite("test", 200, 600))
    write_yaml(directory / "study.yaml", study)
    return WholeStudy(directory, limit=LIMIT)


def test_on_policy_training_is_better_where_it_must_be(tmp_path: Path) -> None:
    # With the study's own five seeds p is 0.0107 on one processor: rounding differs among them.
    [pair] = verdicts(written(tmp_path, confirm={"seeds": 8}))
    assert (pair["arm"], pair["against"], pair["conclusion"]) == ("gkd", "sft", "better")
    assert pair["p_adjusted"] < 0.01
    assert pair["interval"][0] > 0


def test_two_arms_without_on_policy_sequences_are_not_told_apart(tmp_path: Path) -> None:
    # The same loss on the same sequences, under two names.
    arms = {
        "gkd": {"method": "gkd", "settings": {"lmbda": 0.0, "beta": 0.0}, "search": RATE},
        "supervised_kd": {"method": "supervised_kd", "search": RATE},
    }
    [pair] = verdicts(written(tmp_path, arms=arms, trials=2))
    assert pair["conclusion"] in ("equivalent", "inconclusive")


def test_arms_that_are_alike_are_seldom_told_apart(tmp_path: Path) -> None:
    # Searches would draw settings that really differ. Here only chance does: the coin that makes a
    # micro-batch on-policy falls once a step or twice. A test of documents alone sees differences.
    settings = {"lmbda": 0.5, "learning_rate": 1.5e-3, "max_new_tokens": 16}
    halves = {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 2}
    arms = {
        "a": {"method": "gkd", "settings": settings},
        "b": {"method": "gkd", "settings": settings | halves},
    }
    counted: Counter[str] = Counter()
    significant = 0
    for seed in range(SEEDS):
        directory = tmp_path / str(seed)
        directory.mkdir()
        study = adder_study(
            seed=seed,
            trials=1,
            arms=arms,
            data={"train": {"path": "builtin/addition", "limit": 200}},
            confirm={"seeds": 3},
            compute={"workers": 2},
            compare_at=["steps"],
            margin=0.1,
        )
        study["training"] |= {"max_steps": 12, "per_device_train_batch_size": 16}
        write_yaml(directory / "study.yaml", study)
        write_yaml(directory / "selection.yaml", adder_suite("selection", 0, 50))
        write_yaml(directory / "test.yaml", adder_suite("test", 50, 250))
        cache = Path("..") / "cache"
        [pair] = verdicts(WholeStudy(directory, cache=cache, limit=LIMIT))
        counted[pair["conclusion"]] += 1
        # Within the margin arms are equivalent, however small p is.
        significant += pair["p_adjusted"] < 0.05
    assert significant <= MOST_FALSE, counted
    assert counted["better"] + counted["worse"] <= MOST_FALSE, counted
