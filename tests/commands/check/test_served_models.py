"""What ``sweeper check`` reports of the servers that a study starts, and the memory they take."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sweeper.analysis.findings import Finding
from sweeper.commands.check.machine import machine_of
from sweeper.commands.check.memory_findings import Forecast, StudyTrainings, largest
from sweeper.commands.check.memory_forecast import moments
from sweeper.commands.check.memory_terms import GIB, DeviceKind, Peak, Sizes
from sweeper.commands.check.served_models import (
    LIBRARIES,
    beside_servers,
    length_findings,
    planned_servers,
    served_finding,
)
from sweeper.config.loading import LoadedStudy, load_study
from sweeper.config.study import StudyConfig
from sweeper.execution.device_sharing import DeviceMemory
from sweeper.execution.devices import main_memory
from sweeper.records import ScoredTask
from tests.support.gpus import report_gpus
from tests.support.memory_shapes import DATA, LINEAR, STUDENT, config, memory_findings, shapes
from tests.support.served_models import FAKE_VLLM

WriteStudy = Callable[..., Path]
VLLM: dict[str, Any] = {"rollouts": {"engine": "vllm"}}
GKD: dict[str, Any] = {"gkd": {"settings": {"teacher_signal": "top_k"}}}


@pytest.fixture
def load(write_study: WriteStudy, monkeypatch: pytest.MonkeyPatch) -> Callable[..., LoadedStudy]:
    """Read a study on a machine that has vLLM."""
    monkeypatch.delenv("SWEEPER_VLLM_PYTHON", raising=False)
    monkeypatch.setenv("PYTHONPATH", str(FAKE_VLLM))
    return lambda **keys: load_study(write_study(**keys))


def teacher(**server: Any) -> dict[str, Any]:
    return {"model": "builtin/adder-teacher", "server": {"start": "vllm", **server}}


def row(study: LoadedStudy) -> str:
    found = served_finding(machine_of(study).servers)
    return "" if found is None else found.detail


def rooms(study: LoadedStudy) -> list[DeviceMemory]:
    machine = machine_of(study)
    return beside_servers(machine.places, machine.servers, machine.devices, 1_000_000)


def test_a_study_without_servers_has_no_row(load: Callable[..., LoadedStudy]) -> None:
    assert row(load()) == ""
    quantized = {"model": "builtin/adder-student", "lora": {}, "quantization": "int8"}
    tried = load(arms={"gkd": {}}, rollouts={"engine": "auto"}, student=quantized)
    assert row(tried) == ""


def test_each_server_is_named_with_its_devices(load: Callable[..., LoadedStudy]) -> None:
    sampled = load(arms={"gkd": {}}, compute={"device": "cpu"}, **VLLM)
    assert row(sampled) == (
        "vLLM serves weights of students like builtin/adder-student on cpu, while trials run"
    )
    asked = load(arms={"seqkd": {}}, teacher=teacher(gpus=0))
    assert row(asked) == (
        "vLLM serves the teacher builtin/adder-teacher on cpu, while the study is prepared"
    )
    judged = load(arms=GKD, teacher=teacher(gpus=0), compute={"device": "cpu"}, **VLLM)
    assert row(judged) == (
        "vLLM serves the teacher builtin/adder-teacher on cpu, while trials run; weights of"
        " students like builtin/adder-student on cpu, while trials run"
    )
    tried = load(arms={"gkd": {}}, compute={"device": "cpu"}, rollouts={"engine": "auto"})
    assert row(tried).endswith(
        "while the study is prepared, and next to them if it samples fastest"
    )
    scored = load(
        arms={"sft": {}},
        compute={"device": "cpu"},
        teacher=teacher(gpus=0) | {"dtype": "float32"},
        evaluation=evaluated("vllm"),
    )
    assert "weights of students" in row(scored)


def evaluated(engine: str) -> dict[str, Any]:
    return {"selection": "selection.yaml", "test": "test.yaml", "engine": engine}


def test_gpus_are_named_with_the_share_of_their_memory(
    load: Callable[..., LoadedStudy], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    report_gpus(monkeypatch, tmp_path, 4)
    study = load(
        arms=GKD,
        teacher=teacher(gpus=2, gpu_memory=0.8),
        compute={"workers": 2, "vllm": {"gpu_memory": 0.25}},
        **VLLM,
    )
    assert row(study) == (
        "vLLM serves the teacher builtin/adder-teacher on cuda:2, cuda:3, with 0.8 of each one's"
        " memory, while trials run; weights of students like builtin/adder-student on cuda:0,"
        " cuda:1, a server on each, with 0.25 of each one's memory, while trials run"
    )
    # The teacher's GPUs have no trials.
    [room] = rooms(study)
    assert (room.bytes, room.served) == (60 * GIB, 20 * GIB)
    assert room.name == "a GPU of 80 GiB, next to the student's server (20.0 GiB)"


@pytest.mark.parametrize(
    ("gpus", "keys", "left", "named"),
    [
        # One server on each device, however many trials share it.
        (2, {"compute": {"resources_per_trial": {"gpu": 0.25}}, **VLLM}, 0.7 / 4, "(24.0 GiB)"),
        (2, {"compute": {"workers": 4, "vllm": {"gpu_memory": 0.5}}, **VLLM}, 0.25, "(40.0 GiB)"),
        (1, {"compute": {"workers": 1}, **VLLM}, 0.7, "next to the student's server (24.0 GiB)"),
        # A teacher that has all GPUs shares them with trials.
        (
            1,
            {"teacher": teacher(gpu_memory=0.5), "arms": GKD},
            0.5,
            "next to the teacher's server (40.0 GiB)",
        ),
        (
            1,
            {"teacher": teacher(gpu_memory=0.5), "arms": GKD, **VLLM},
            0.2,
            "next to the teacher's server (40.0 GiB) and the student's server (24.0 GiB)",
        ),
        # It has ended before trials that do not ask it.
        (1, {"teacher": teacher(), "arms": {"seqkd": {}}}, 1.0, "a GPU of 80 GiB"),
        (2, {"teacher": teacher(), "arms": GKD}, 1.0, "a GPU of 80 GiB"),
        (1, {"rollouts": {"engine": "auto"}}, 1.0, "a GPU of 80 GiB"),
    ],
)
def test_trials_have_what_servers_leave_of_a_gpu(
    load: Callable[..., LoadedStudy],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    gpus: int,
    keys: dict[str, Any],
    left: float,
    named: str,
) -> None:
    report_gpus(monkeypatch, tmp_path, gpus)
    [room] = rooms(load(**{"arms": {"gkd": {}}, **keys}))
    assert room.bytes == pytest.approx(left * 80 * GIB)
    assert room.name.endswith(named)
    assert room.whole + room.served == pytest.approx(80 * GIB)


@pytest.mark.parametrize(
    ("options", "cache"),
    [({}, 2**30), ({"kv_cache_memory_bytes": 2**28}, 2**28), ({"kv-cache-memory-bytes": 7}, 7)],
)
def test_trials_have_what_servers_leave_of_main_memory(
    load: Callable[..., LoadedStudy], options: dict[str, Any], cache: int
) -> None:
    compute = {"device": "cpu", "workers": 2, "vllm": {"options": options}}
    [room] = rooms(load(arms={"gkd": {}}, compute=compute, **VLLM))
    assert room.served == LIBRARIES + cache + 4 * 1_000_000
    assert room.bytes == pytest.approx((main_memory() - room.served) / 2)
    assert "2 workers share), next to the student's server (" in room.name


def test_a_limit_of_memory_is_what_a_trial_has_unless_servers_leave_less(
    load: Callable[..., LoadedStudy],
) -> None:
    compute = {"device": "cpu", "memory_limit": 0.5}
    [room] = rooms(load(arms={"gkd": {}}, compute=compute, **VLLM))
    assert room.bytes == 0.5 * GIB
    assert room.name.startswith("compute.memory_limit, next to the student's server")


def test_servers_that_take_all_of_a_gpu_leave_nothing() -> None:
    room = DeviceMemory("a GPU", "cuda", 80 * GIB, 80 * GIB)
    taken = room.beside({"the teacher's server": 72 * GIB, "the student's server": 24 * GIB})
    assert (taken.bytes, taken.whole) == (0, 0)
    [finding] = memory_findings(config(), DATA, shapes, [taken])
    assert finding.state == "error"
    assert "a GPU, next to the teacher's server (72.0 GiB) and" in finding.detail


def test_the_row_names_the_server_and_what_leaves_more() -> None:
    most = peak(config(), "cuda").total
    room = DeviceMemory("a GPU", "cuda", most * 1.3, most * 1.3)
    [finding] = memory_findings(config(), DATA, shapes, [room])
    assert finding.state == "ok"
    beside = room.beside({"the student's server": most * 0.3})
    [finding] = memory_findings(config(), DATA, shapes, [beside])
    assert finding.state == "warning"
    assert "of a GPU, next to the student's server (" in finding.detail
    assert finding.advice.endswith("A smaller gpu_memory of a server leaves more to trials.")


def most(study: StudyConfig, kind: DeviceKind = "cuda") -> Forecast:
    found = largest(StudyTrainings(study, DATA, shapes), kind)
    assert found is not None
    return found


def peak(study: StudyConfig, kind: DeviceKind) -> Peak:
    return most(study, kind).peak


def test_a_trial_does_not_take_what_its_server_does() -> None:
    many = {
        "per_device_train_batch_size": 1,
        "gradient_accumulation_steps": 512,
        "max_new_tokens": 768,
        "lmbda": 1.0,
    }
    arms: dict[str, Any] = {"gkd": {"settings": many}}
    assert peak(config(arms=arms), "cuda").moment == "rollout"
    assert peak(config(arms=arms, **VLLM), "cuda").moment == "forward and backward"
    # TRL's trainer samples by itself.
    stock = {"gkd": {"settings": {"max_new_tokens": 512, "engine": "trl"}}}
    assert peak(config(arms=stock, **VLLM), "cuda") == peak(config(arms=stock), "cuda")


def test_weights_are_copied_in_main_memory_while_they_are_given_to_a_server() -> None:
    small = {"max_length": 8, "per_device_train_batch_size": 1, "optim": "sgd"}
    study = config(arms={"gkd": {"settings": {"max_new_tokens": 2}}}, training=small, **VLLM)
    found = peak(study, "cpu")
    assert found.moment == "giving a server its weights"
    assert found.parts["weights for a server"] == 2 * 4 * STUDENT.parameters
    # On a GPU the server reads them where they lie.
    assert peak(study, "cuda").moment != found.moment


@pytest.mark.parametrize(
    ("student", "scored_bytes", "copied"),
    [
        ({}, 4, 0),
        ({}, 2, 2 * STUDENT.parameters),
        ({"adapted": True, "trainable_parameters": 0}, 4, 4 * LINEAR),
    ],
)
def test_a_gpu_has_a_copy_of_weights_that_are_not_given_as_they_are(
    student: dict[str, Any], scored_bytes: int, copied: int
) -> None:
    setup = most(config(arms={"sft": {}})).setup
    sizes = Sizes(8, 8, 16, scored_bytes=scored_bytes, gives=True)
    peaks = moments(setup, STUDENT.model_copy(update=student), None, sizes, "cuda")
    [given] = [one for one in peaks if one.moment == "giving a server its weights"]
    assert given.parts.get("weights for a server", 0) == copied


def test_the_longest_prompt_with_its_answer_has_to_fit(load: Callable[..., LoadedStudy]) -> None:
    # The longest prompt of these data has 256 tokens.
    arms = {"gkd": {"settings": {"max_new_tokens": 48}}}

    def found(limit: int | None) -> list[Finding]:
        vllm = {} if limit is None else {"max_length": limit}
        study = load(arms=arms, compute={"device": "cpu", "vllm": vllm}, **VLLM)
        return list(length_findings(study, DATA))

    [finding] = found(303)
    assert finding.state == "error"
    assert "expected at least 304, for the longest prompt of 256 tokens" in finding.detail
    assert finding.place.endswith("compute.vllm.max_length")
    assert found(304) == found(None) == []


def test_texts_of_the_suites_may_be_too_long(load: Callable[..., LoadedStudy]) -> None:
    study = load(
        arms={"sft": {}},
        compute={"device": "cpu", "vllm": {"max_length": 128}},
        teacher=teacher(gpus=0) | {"dtype": "float32"},
        evaluation=evaluated("vllm"),
    )
    tasks = [ScoredTask(task=n, texts=3, tokens=t, likelihoods=False) for n, t in (("a", 99),)]
    assert list(length_findings(study, DATA.model_copy(update={"scored": tuple(tasks)}))) == []
    tasks += [ScoredTask(task="b", texts=3, tokens=200, likelihoods=False)]
    [finding] = length_findings(study, DATA.model_copy(update={"scored": tuple(tasks)}))
    assert finding.state == "warning"
    assert "texts of the task b with their answers have up to about 200 tokens" in finding.detail


def test_a_server_without_devices_is_reported_once(
    load: Callable[..., LoadedStudy], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    report_gpus(monkeypatch, tmp_path, 1)
    machine = machine_of(load(arms=GKD, teacher=teacher(gpus=3)))
    assert (machine.servers, machine.problems) == ([], ())
    assert machine.devices == ["cuda:0"]


def test_a_cluster_s_servers_are_not_known_here(load: Callable[..., LoadedStudy]) -> None:
    study = load()
    ray = study.config.model_copy(
        update={"compute": study.config.compute.model_copy(update={"executor": "ray"})}
    )
    assert planned_servers(study.__class__(**{**vars(study), "config": ray}), ["cpu"]) == []
