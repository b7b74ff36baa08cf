"""Processes of jobs on GPUs: what they see, what they may take, and how they end."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

pytest.importorskip("lm_eval", reason="jobs import lm-eval")

from sweeper.config.compute import ComputeConfig
from sweeper.config.loading import load_study
from sweeper.execution.devices import find_devices, gpu_memory
from sweeper.execution.executor import Finished
from sweeper.execution.local import LocalExecutor
from sweeper.execution.worker.out_of_memory import in_smaller_batches, is_out_of_memory
from sweeper.execution.worker.run import run_job
from tests.support import gpu_jobs
from tests.support.cuda import COUNT, needs_two_gpus
from tests.support.trial_jobs import trial_spec

pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("default")]


@pytest.mark.skipif(shutil.which("nvidia-smi") is None, reason="nvidia-smi is not in PATH")
def test_devices_are_those_that_torch_can_use() -> None:
    assert find_devices("cuda") == find_devices("auto") == [f"cuda:{at}" for at in range(COUNT)]
    for name, size in gpu_memory().items():
        assert size == pytest.approx(torch.cuda.get_device_properties(name).total_memory, rel=0.05)


def outcomes(executor: LocalExecutor) -> list[Finished]:
    finished: list[Finished] = []
    while executor.running():
        finished += executor.wait(60)
    return finished


def test_two_jobs_on_one_gpu_have_a_fence_each(write_study: Callable[..., Path]) -> None:
    study = load_study(write_study())
    compute = ComputeConfig.model_validate(
        {"device": "cuda:0", "workers": 2, "resources_per_trial": {"gpu": 0.5}}
    )
    with LocalExecutor(compute, devices=["cuda:0"], run=gpu_jobs.take_memory) as executor:
        for arm in ("gkd", "sft"):
            spec = trial_spec(study, arm)
            place = executor.next_resources(Path(spec.place.directory))
            executor.submit(spec.model_copy(update={"place": place}))
        ended = outcomes(executor)
    for one in ended:
        assert one.outcome is not None, one.reason
        # The small share can be had, and not the one that is larger than the fence.
        assert one.outcome.notes == ("cuda:0", str(gpu_jobs.SMALL))
        assert one.outcome.peak_bytes is not None and one.outcome.peak_bytes > 0


def test_a_failed_assertion_on_the_device_is_an_outcome(write_study: Callable[..., Path]) -> None:
    spec = trial_spec(load_study(write_study()), "sft")
    compute = ComputeConfig(device="cuda:0")
    with LocalExecutor(compute, devices=["cuda:0"], run=gpu_jobs.fail_an_assertion) as executor:
        place = executor.next_resources(Path(spec.place.directory))
        executor.submit(spec.model_copy(update={"place": place}))
        [one] = outcomes(executor)
    assert one.outcome is not None, one.reason
    assert one.outcome.failure is not None, one.outcome.notes
    assert one.outcome.failure.kind == "device_assert", one.outcome.failure
    assert "index out of bounds" in one.outcome.failure.message


@needs_two_gpus
def test_a_job_sees_only_its_own_gpu(write_study: Callable[..., Path]) -> None:
    spec = trial_spec(load_study(write_study()), "sft")
    compute = ComputeConfig(device="cuda:1")
    with LocalExecutor(compute, run=gpu_jobs.take_memory) as executor:
        place = executor.next_resources(Path(spec.place.directory))
        assert place.device == "cuda:1"
        executor.submit(spec.model_copy(update={"place": place}))
        [one] = outcomes(executor)
    assert one.outcome is not None, one.reason
    # By the name that it has inside.
    assert one.outcome.notes[0] == "cuda:0"
    assert one.outcome.device == "cuda:1"


@needs_two_gpus
def test_two_gpus_train_one_student(write_study: Callable[..., Path]) -> None:
    spec = trial_spec(load_study(write_study()), "sft")
    compute = ComputeConfig(device="cuda", devices_per_trial=2)
    with LocalExecutor(
        compute, devices=["cuda:0", "cuda:1"], run=gpu_jobs.train_together
    ) as executor:
        place = executor.next_resources(Path(spec.place.directory))
        executor.submit(spec.model_copy(update={"place": place}))
        [one] = outcomes(executor)
    assert one.outcome is not None, one.reason
    assert one.outcome.state == "completed", one.outcome.failure
    folder = Path(spec.place.directory)
    for name in ("gkd, beta 0.5", "sharded student", "both sharded"):
        (first, losses), (second, same) = (
            torch.load(folder / f"{name}-{rank}.pt") for rank in range(2)
        )
        assert losses == same
        for key, weights in first.items():
            assert torch.equal(weights, second[key]), (name, key)


@pytest.fixture
def little_memory() -> Iterator[None]:
    """Leave this process a hundredth of the GPU."""
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(0.01)
    yield
    torch.cuda.set_per_process_memory_fraction(1.0)
    torch.cuda.empty_cache()


def test_work_that_does_not_fit_is_done_in_smaller_batches(little_memory: None) -> None:
    most = int(torch.cuda.get_device_properties(0).total_memory * 0.01)

    def work(size: int) -> int:
        return torch.empty(size * most // 4, dtype=torch.uint8, device="cuda").numel()

    found, size = in_smaller_batches(work, 16, "it is done")
    assert size in (1, 2) and found == size * most // 4
    with pytest.raises(torch.OutOfMemoryError) as raised:
        work(16)
    assert is_out_of_memory(raised.value)


def test_a_trial_that_needs_more_ends_as_out_of_memory(
    write_study: Callable[..., Path], little_memory: None
) -> None:
    training = {"max_steps": 2, "per_device_train_batch_size": 4, "max_length": 96}
    spec = trial_spec(load_study(write_study(training=training)), "sft")
    place = spec.place.model_copy(update={"device": "cuda:0"})
    kept = []
    with pytest.raises(torch.OutOfMemoryError):
        while True:
            kept.append(torch.empty(2**20, dtype=torch.uint8, device="cuda"))
    outcome = run_job(spec.model_copy(update={"place": place}))
    assert outcome.failure is not None and outcome.failure.kind == "out_of_memory"
    # With the memory back, the same process can do it: nothing of the trial is left there.
    kept.clear()
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(1.0)
    outcome = run_job(spec.model_copy(update={"place": place}))
    assert outcome.state == "completed", outcome.failure
