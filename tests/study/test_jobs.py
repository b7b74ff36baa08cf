"""How long a coordinator lets its jobs go on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from sweeper.config.compute import ComputeConfig
from sweeper.config.loading import load_study
from sweeper.foundation.database_retry import Retry
from sweeper.records import TrialSpec
from sweeper.study.jobs import Jobs
from tests.support.trial_jobs import trial_spec
from tests.support.writing_executor import WritingExecutor


class Stubborn(WritingExecutor):
    """Its job does not end, unless it is cancelled."""

    cancelled: bool = False

    def wait(self, timeout: float) -> list[object]:  # type: ignore[override]
        return []

    def cancel(self, spec: object) -> None:
        self.cancelled = True


@pytest.mark.parametrize("limit", ["trial_timeout", "stall_timeout"])
@pytest.mark.parametrize("waited", [0.0, 600.0], ids=["", "of it, the coordinator waited"])
def test_time_in_which_a_database_did_not_answer_is_not_held_against_jobs(
    write_study: Callable[..., Path], limit: str, waited: float
) -> None:
    executor, retry = Stubborn(), Retry()
    spec = trial_spec(load_study(write_study()), "sft")
    files = Path(spec.place.directory)
    files.mkdir(parents=True, exist_ok=True)
    (files / "spec.json").write_text(spec.model_dump_json())
    executor.submit(spec)
    jobs = Jobs(executor, ComputeConfig.model_validate({limit: 300}), retry)
    jobs.notice()
    [job] = jobs.running.values()

    def hear(spec: TrialSpec, rows: object) -> None:
        # What it said takes long to record.
        retry.waited += waited

    assert jobs.wait(0, hear) == []
    assert job.last is not None
    assert not executor.cancelled
    # Ten minutes later, without a word.
    job.since -= 600
    job.heard -= 600
    jobs.wait(0, hear)
    assert executor.cancelled is (waited == 0)
    assert (job.given_up is None) is (waited > 0)
    if job.given_up is not None:
        assert f"(compute.{limit})" in job.given_up.message
        assert job.given_up.remedies == ("fewer max_steps",)
