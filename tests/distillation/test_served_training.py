"""Trainings whose teacher judges over a real socket: the same as with the loaded teacher."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from sweeper.config.data import DataConfig, DatasetConfig
from sweeper.config.models import ModelConfig, StudentConfig
from sweeper.distillation.data.training_data import unpack_models
from sweeper.distillation.teacher import stored_judgement
from sweeper.foundation.errors import NoAnswerError
from sweeper.records import Resources, StudyInputs
from tests.support import training_jobs as jobs
from tests.support.chat_server import ChatServer, chat_server, half_a_body, reply
from tests.support.judging import Judge
from tests.support.tiny_models import make_tiny

pytestmark = pytest.mark.slow
NOW = {"Retry_After": "0"}


@pytest.fixture(scope="module")
def judge() -> Judge:
    return Judge()


@pytest.fixture
def server(judge: Judge) -> Iterator[ChatServer]:
    with chat_server(judge=judge) as running:
        yield running


@pytest.fixture
def resources(tmp_path: Path) -> Resources:
    return Resources(directory=str(tmp_path), device="cpu", threads=1)


def inputs_of(folder: Path, server: ChatServer | None = None, **keys: Any) -> StudyInputs:
    """A study with the built-in teacher: loaded, or behind the server."""
    teacher: dict[str, Any] = {"model": "builtin/adder-teacher"}
    if server is not None:
        teacher["server"] = {"url": server.url, "api": "vllm", **keys}
    model = ModelConfig.model_validate(teacher)
    return jobs.make_study_inputs(folder, teacher=model, teacher_states_gib=1.0)


def weights(model: Any) -> dict[str, torch.Tensor]:
    return {name: weight.detach() for name, weight in model.named_parameters()}


@pytest.mark.parametrize(
    ("method", "settings", "tolerance"),
    [
        ("gkd", {"lmbda": 1.0, "teacher_signal": "top_k", "teacher_top_k": 4}, 1e-5),
        # A sure teacher's rest is rounding here, and this is what the reverse KL reads most.
        ("gkd", {"lmbda": 1.0, "teacher_signal": "top_k", "beta": 1.0}, 1e-3),
        ("gkd", {"lmbda": 0.5, "teacher_signal": "top_k", "teacher_top_k": 3}, 1e-5),
        ("gkd", {"lmbda": 1.0, "teacher_signal": "sampled", "temperature": 0.7}, 1e-5),
        ("supervised_kd", {"teacher_signal": "top_k", "teacher_top_k": 2}, 1e-5),
    ],
    ids=["on-policy", "reverse", "mixed", "sampled", "offline"],
)
def test_the_same_student_as_with_the_loaded_teacher(
    server: ChatServer,
    tmp_path: Path,
    resources: Resources,
    method: Any,
    settings: dict[str, Any],
    tolerance: float,
) -> None:
    # Adam's first steps are gradients' signs, which rounding decides where they vanish.
    usual = {"gradient_accumulation_steps": 2, "optim": "sgd", "learning_rate": 0.01}
    settings = {**usual, **settings}
    loaded, meter, points = jobs.train(inputs_of(tmp_path), resources, method, **settings)
    served = jobs.train(inputs_of(tmp_path, server), resources, method, **settings)
    theirs = weights(loaded)
    for name, weight in weights(served[0]).items():
        torch.testing.assert_close(weight, theirs[name], atol=tolerance, rtol=0)
    for mine, reference in zip(served[2], points, strict=True):
        assert mine["loss"] == pytest.approx(reference["loss"], abs=tolerance)
    ours, expected = served[1].rollouts(), meter.rollouts()
    assert ours is not None and expected is not None
    assert ours.teacher_entropy is None
    known = {name for name, value in ours.model_dump().items() if value is not None}
    if expected.length is not None:
        assert known == {*expected.model_dump(exclude_none=True)} - {"teacher_entropy"}
    found = ours.model_dump(include=known)
    assert found == pytest.approx(expected.model_dump(include=known), rel=1e-3, abs=1e-5)
    # It is also asked while the student computes.
    assert served[1].cost().served["teacher"] > 0


def test_with_the_whole_vocabulary_it_is_the_exact_loss(
    server: ChatServer, tmp_path: Path, resources: Resources
) -> None:
    vocabulary = len(jobs.read_training_data(inputs_of(tmp_path)).tokenizer)
    settings = {"lmbda": 1.0, "beta": 0.5, "max_steps": 2}
    exact, _, _ = jobs.train(inputs_of(tmp_path), resources, "gkd", **settings)
    settings |= {"teacher_signal": "top_k", "teacher_top_k": vocabulary}
    served, _, _ = jobs.train(inputs_of(tmp_path, server), resources, "gkd", **settings)
    theirs = weights(exact)
    for name, weight in weights(served).items():
        torch.testing.assert_close(weight, theirs[name], atol=1e-5, rtol=0)


def test_stored_judgement_is_asked_for_once_and_rollouts_in_each_training(
    server: ChatServer, tmp_path: Path, resources: Resources
) -> None:
    inputs = inputs_of(tmp_path, server)
    settings = {"teacher_signal": "top_k", "teacher_top_k": 4}
    first, _, _ = jobs.train(inputs, resources, "supervised_kd", **settings)
    assert len(server.asked) == 16
    again, meter, _ = jobs.train(inputs, resources, "supervised_kd", **settings)
    jobs.train(inputs, resources, "supervised_kd", **{**settings, "teacher_top_k": 2})
    assert len(server.asked) == 16
    assert "teacher" not in meter.cost().served
    for name, weight in weights(again).items():
        assert torch.equal(weight, weights(first)[name])
    jobs.train(inputs, resources, "gkd", lmbda=0.5, max_steps=4, **settings)
    rollouts = [body for body in server.asked[16:]]
    assert rollouts and len(rollouts) % 4 == 0
    assert {body["prompt_logprobs"] for body in rollouts} == {4}


def test_without_room_for_it_every_micro_batch_is_asked_for(
    server: ChatServer, tmp_path: Path, resources: Resources
) -> None:
    settings: dict[str, Any] = {"teacher_signal": "top_k", "teacher_top_k": 4}
    inputs = inputs_of(tmp_path, server)
    stored, _, _ = jobs.train(inputs, resources, "supervised_kd", **settings)
    bound = inputs.model_copy(update={"teacher_states_gib": 0.0})
    asked = len(server.asked)
    live, _, _ = jobs.train(bound, resources, "supervised_kd", **settings)
    assert len(server.asked) == asked + 3 * 4
    for name, weight in weights(live).items():
        torch.testing.assert_close(weight, weights(stored)[name], atol=1e-6, rtol=0)


def test_faults_in_the_middle_of_a_rollouts_judgement(
    server: ChatServer, tmp_path: Path, resources: Resources
) -> None:
    settings = {"lmbda": 1.0, "teacher_signal": "top_k", "teacher_top_k": 4}
    whole, _, _ = jobs.train(inputs_of(tmp_path, server), resources, "gkd", **settings)
    nonsense = reply(200, b'{"choices": [{"text": "", "finish_reason": "length"}]}')
    refused, failed = reply(429, "slow", **NOW), reply(500, "no", **NOW)
    server.faults = [refused, None, failed, half_a_body, nonsense, None, reply(200, b"<html>")]
    again, _, _ = jobs.train(inputs_of(tmp_path, server), resources, "gkd", **settings)
    for name, weight in weights(again).items():
        assert torch.equal(weight, weights(whole)[name])


def test_a_server_that_stays_away_is_no_fault_of_the_training(
    server: ChatServer, tmp_path: Path, resources: Resources
) -> None:
    server.faults = [None] * 5
    server.always = reply(503, "down", **NOW)
    inputs = inputs_of(tmp_path, server, retry_for=0.05)
    settings = {"lmbda": 1.0, "teacher_signal": "top_k", "teacher_top_k": 4}
    with pytest.raises(NoAnswerError, match=r"the judgement of \d+ tokens was asked"):
        jobs.train(inputs, resources, "gkd", **settings)
    assert sum(server.answered.values()) == 5


def test_a_teacher_with_more_padding_than_the_student(tmp_path: Path, resources: Resources) -> None:
    """The loaded teacher's head is cut; what a server reports of the padding is left out."""
    teacher = make_tiny(tmp_path / "teacher", layers=1, vocab_rows=320, seed=1, spread=3.0)
    student = make_tiny(tmp_path / "student", layers=1, vocab_rows=288, seed=2)
    data = DataConfig(train=DatasetConfig(path="builtin/addition", limit=8))

    def train(server: ChatServer | None, k: int) -> Any:
        served = {"server": {"url": server.url, "api": "vllm"}} if server else {}
        inputs = jobs.make_study_inputs(
            tmp_path,
            teacher=ModelConfig.model_validate({"model": teacher, **served}),
            student=StudentConfig(model=student),
            data=data,
        )
        settings = {"teacher_signal": "top_k", "teacher_top_k": k, "lmbda": 1.0, "max_steps": 2}
        return jobs.train(unpack_models(inputs), resources, "gkd", max_length=128, **settings)[0]

    # It reports every token, and so that padding is no rest of the student's.
    judge = Judge(teacher)
    with chat_server(judge=lambda tokens, _: judge(tokens, 320)) as server:
        served, loaded = train(server, 40), train(None, 40)
    for name, weight in weights(served).items():
        torch.testing.assert_close(weight, weights(loaded)[name], atol=1e-5, rtol=0)


def test_the_store_is_bounded(server: ChatServer, tmp_path: Path, resources: Resources) -> None:
    inputs = inputs_of(tmp_path, server)
    jobs.train(inputs, resources, "supervised_kd", teacher_signal="top_k", teacher_top_k=4)
    [entry] = (Path(inputs.cache) / stored_judgement.KIND).glob("[!.]*")
    sizes = {path.name: path.stat().st_size for path in entry.iterdir()}
    positions = sizes["ids.bin"] // 16
    assert sizes["log_probs.bin"] == sizes["ids.bin"] == 16 * positions
    assert stored_judgement.BYTES_A_TOKEN * 4 * positions == 2 * sizes["ids.bin"]
