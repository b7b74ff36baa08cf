"""Two processes that train one student together: as one process does with the same sequences."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from sweeper.config.compute import ComputeConfig
from sweeper.config.loading import load_study
from sweeper.execution.local import LocalExecutor
from sweeper.records import Resources
from sweeper.records.layout import JobPaths
from tests.support import together
from tests.support.tiny_studies import adder_study, adder_suite, write_yaml
from tests.support.trial_jobs import trial_spec

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where two processes have left what came of each case."""
    folder = tmp_path_factory.mktemp("pair")
    write_yaml(folder / "selection.yaml", adder_suite("selection", 0, 12))
    write_yaml(folder / "test.yaml", adder_suite("test", 12, 20))
    spec = trial_spec(load_study(write_yaml(folder / "study.yaml", adder_study())), "sft")
    together.make_mixtures(Path(spec.place.directory).parent)
    compute = ComputeConfig(device="cpu", devices_per_trial=2, threads_per_worker=2)
    with LocalExecutor(compute, run=together.train_all) as executor:
        resources = executor.next_resources(Path(spec.place.directory))
        assert (resources.devices, resources.threads) == (("cpu", "cpu"), 1)
        executor.submit(spec.model_copy(update={"place": resources}))
        while not (finished := executor.wait(60)):
            pass
    log = JobPaths(Path(spec.place.directory)).log.read_text()
    assert finished[0].outcome is not None, log
    assert finished[0].outcome.state == "completed", finished[0].outcome.failure
    return Path(spec.place.directory)


def counted(result: dict[str, Any]) -> dict[str, float]:
    return {n: c for n, c in result["totals"].items() if not n.startswith("seconds_")}


@pytest.mark.parametrize("name", together.CASES)
def test_two_processes_train_as_one(pair: Path, tmp_path: Path, name: str) -> None:
    resources = Resources(directory=str(tmp_path), device="cpu", threads=1)
    one = together.train(name, resources, pair.parent)
    first, second = (torch.load(pair / f"{name}-{rank}.pt") for rank in range(2))
    for key, weights in first["weights"].items():
        assert torch.equal(weights, second["weights"][key])
        torch.testing.assert_close(weights, one["weights"][key], rtol=1e-5, atol=2e-6)
    for result in (first, second, one):
        assert result["configuration is unchanged"]
        assert result["forward is the class's"]
    # What is reported is of both of them; sums over tokens are those of one but for rounding.
    assert counted(first) == counted(second) == pytest.approx(counted(one), rel=1e-5)
    for ours, theirs in zip(first["points"], one["points"], strict=True):
        for quantity in ("loss", "grad_norm", "teacher_divergence"):
            assert ours[quantity] == pytest.approx(theirs[quantity], rel=1e-4)


def test_a_divided_student_is_in_parts_and_can_be_put_together(pair: Path) -> None:
    first, second = (torch.load(pair / f"divided-{rank}.pt") for rank in range(2))
    for name, size in first["parts"].items():
        whole = first["before"][name].numel()
        assert size + second["parts"][name] == whole
        assert size == pytest.approx(whole / 2, rel=0.1)
    for found in (first, second):
        assert found["teacher in parts"]
        assert found["after"].keys() == found["before"].keys()
        for name, tensor in found["before"].items():
            assert torch.equal(tensor, found["after"][name]), name
        (logits, size), (same, less) = found["rounded"].values()
        assert torch.equal(logits, same)
        assert less < 0.6 * size
    assert (first["left here"], second["left here"]) == (True, False)
