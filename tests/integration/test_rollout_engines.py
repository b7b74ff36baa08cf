"""A study whose engine of rollouts is measured: the choice is made once, and trials use it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sweeper.records.outcome_files import read_outcome
from tests.support.whole_studies import WholeStudy

pytestmark = pytest.mark.soak

SETTINGS = {"lmbda": 1.0, "max_new_tokens": 8}
CHANGES: dict[str, Any] = {
    "trials": 1,
    "rollouts": {"engine": "auto"},
    "arms": {"gkd": {"settings": SETTINGS}},
}


def test_the_choice_is_made_once_and_kept(write_study: Callable[..., Path]) -> None:
    file = write_study(**CHANGES)
    study = WholeStudy(file.parent)
    done = study.run()
    study.check(done)
    printed = " ".join(done.stdout.split())
    assert "engines: rollouts are sampled by" in printed
    files = study.paths.preparation("engines")
    outcome = read_outcome(files)
    assert outcome is not None and outcome.engines is not None
    # Pretend that the other engine was faster: this machine's speed is nobody's business here.
    recorded = json.loads(files.outcome.read_text())
    recorded["engines"]["chosen"] = "transformers"
    files.outcome.write_text(json.dumps(recorded))

    # The cache is empty, and there is another arm: the test is not done again.
    shutil.rmtree(study.directory / study.cache)
    arms = {**CHANGES["arms"], "longer": {"method": "gkd", "settings": {"lmbda": 1.0}}}
    arms["longer"]["settings"]["max_new_tokens"] = 16
    write_study(**{**CHANGES, "arms": arms})
    before = files.outcome.stat().st_mtime_ns
    done = study.run()
    study.check(done)
    assert files.outcome.stat().st_mtime_ns == before
    assert "rollouts are sampled by" not in " ".join(done.stdout.split())
    trial = study.paths.trial("longer", 0)
    assert json.loads(trial.spec.read_text())["origin"]["rollout_engine"] == "transformers"
    ended = read_outcome(trial)
    assert ended is not None and ended.rollouts is not None
    assert ended.rollouts.logprob_diff is not None
    assert ended.rollouts.logprob_diff < 1e-4
    assert ended.rollouts.logprob_diff_limit == 1e-3
    assert ended.notes == ()
    report = (study.directory / "reports" / "tiny" / "report.md").read_text()
    assert "sampled by transformers: sweeper" in report

    # Another engine would be another study.
    write_study(**{**CHANGES, "arms": arms, "rollouts": {"engine": "sweeper"}})
    refused = study.run()
    assert refused.returncode == 2
    assert "rollouts" in refused.stderr + refused.stdout
    assert "was started differently" in " ".join((refused.stderr + refused.stdout).split())
