"""Judgement by the real vLLM: as the loaded teacher's, and its refusals are understood."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from sweeper.config.builtin import model_directory
from sweeper.config.judgement import Judged, JudgedArm
from sweeper.config.lengths import LengthLimits
from sweeper.config.models import ModelConfig
from sweeper.config.started_server import StartedServer
from sweeper.distillation.data.training_data import read_training_data
from sweeper.distillation.models.loading import load_model
from sweeper.distillation.teacher.served_judge import ServedJudge, Text
from sweeper.distillation.teacher.shared_teacher import SharedTeacher
from sweeper.execution.worker.judgement_checks import ask_for_most
from sweeper.foundation.errors import BadInputError
from sweeper.records import Resources, ServedModel, StudyInputs
from sweeper.records.layout import ServerPaths
from sweeper.serving.launch import find_vllm, server_python, vllm_launch
from sweeper.serving.model_server import ModelServer
from tests.support import training_jobs as jobs
from tests.support.served_models import wait_until_up

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(900)]
KEYS: dict[str, Any] = {"start": "vllm", "max_length": 128, "options": {"max_num_seqs": 4}}
TEACHER = ModelConfig.model_validate({"model": "builtin/adder-teacher", "server": KEYS})
K = 5


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedModel]:
    folder, model = tmp_path_factory.mktemp("server"), model_directory("adder-teacher")
    server = StartedServer.model_validate(KEYS)
    version, problem = find_vllm(server_python(server))
    assert problem == ""
    launch = vllm_launch(
        "teacher",
        ModelConfig(model=str(model)),
        server,
        source=str(model),
        content="hash",
        version=version,
        devices=("cpu",),
        max_logprobs=K,
    )
    with ModelServer(launch, ServerPaths(folder / "teacher")) as running:
        wait_until_up(running, 400.0)
        assert running.address is not None
        yield running.address


def inputs_of(folder: Path, teacher: ModelConfig) -> StudyInputs:
    return jobs.make_study_inputs(folder, teacher=teacher, teacher_states_gib=1.0)


def place(folder: Path, address: ServedModel | None) -> Resources:
    return Resources(directory=str(folder), device="cpu", threads=1, served_teacher=address)


@pytest.mark.parametrize(
    "settings",
    [
        {"lmbda": 1.0, "teacher_signal": "top_k", "teacher_top_k": K},
        {"lmbda": 0.0, "teacher_signal": "top_k", "teacher_top_k": 3, "beta": 0.0},
        {"lmbda": 1.0, "teacher_signal": "sampled"},
    ],
    ids=["rollouts", "data", "sampled"],
)
def test_a_training_is_that_with_the_loaded_teacher(
    address: ServedModel, tmp_path: Path, settings: dict[str, Any]
) -> None:
    settings |= {"optim": "sgd", "learning_rate": 0.01}
    loaded = inputs_of(tmp_path, ModelConfig(model=TEACHER.model))
    theirs, _, points = jobs.train(loaded, place(tmp_path, None), "gkd", **settings)
    served = inputs_of(tmp_path, TEACHER)
    ours, meter, found = jobs.train(served, place(tmp_path, address), "gkd", **settings)
    expected = dict(theirs.named_parameters())
    for name, weight in ours.named_parameters():
        torch.testing.assert_close(weight, expected[name], atol=1e-3, rtol=0)
    for mine, reference in zip(found, points, strict=True):
        assert mine["loss"] == pytest.approx(reference["loss"], abs=1e-3)
    assert meter.cost().served["teacher"] > 0


def test_its_numbers_are_the_loaded_models(address: ServedModel, tmp_path: Path) -> None:
    model = load_model(ModelConfig(model=TEACHER.model), "cpu")
    sequences = read_training_data(inputs_of(tmp_path, TEACHER)).tokens(96).sequences[:4]
    with ServedJudge(TEACHER, address, K, 1000) as judge:
        texts = [Text.of(sequence) for sequence in sequences]
        for text, future in zip(texts, [judge.ask(text) for text in texts], strict=True):
            found = judge.result(future)
            with torch.no_grad():
                log_q = model(torch.tensor([text.tokens])).logits[0].log_softmax(-1)
            rows = log_q[[position - 1 for position in text.positions]]
            torch.testing.assert_close(found.log_probs, rows.topk(K).values, atol=1e-4, rtol=1e-4)
            chosen = rows.gather(-1, found.ids.long())
            torch.testing.assert_close(found.log_probs, chosen, atol=1e-4, rtol=1e-4)
            tokens = torch.tensor([text.tokens[position] for position in text.positions])
            own = rows.gather(-1, tokens[:, None])[:, 0]
            torch.testing.assert_close(found.own, own, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("k", "longest", "key", "advice"),
    [
        (K + 1, 96, ("k",), f"start it again with --max-logprobs {K + 1}"),
        (K, 128, ("teacher", "server", "max_length"), "a larger teacher.server.max_length"),
        (K, 150, ("teacher", "server", "max_length"), "a larger teacher.server.max_length"),
    ],
)
def test_what_it_refuses_is_understood(
    address: ServedModel, tmp_path: Path, k: int, longest: int, key: tuple[str, ...], advice: str
) -> None:
    inputs = inputs_of(tmp_path, TEACHER)
    data = read_training_data(inputs)
    prompt = max(p for p, _ in data.tokens(64).lengths)
    limits = LengthLimits(
        longest=64, longest_key=("m",), sampled=longest - prompt, sampled_key=("n",)
    )
    judged = Judged(top_k=k, top_k_key=("k",), arms=(JudgedArm(limits=limits),))
    teacher = SharedTeacher(inputs, TEACHER, place(tmp_path, address))
    with pytest.raises(BadInputError) as refused:
        ask_for_most(judged, teacher, data)
    assert refused.value.key == key, str(refused.value)
    assert advice in str(refused.value)


def test_the_longest_that_it_reads(address: ServedModel, tmp_path: Path) -> None:
    data = read_training_data(inputs_of(tmp_path, TEACHER))
    prompt = max(p for p, _ in data.tokens(64).lengths)
    limits = LengthLimits(longest=64, longest_key=("m",), sampled=127 - prompt, sampled_key=("n",))
    judged = Judged(top_k=K, top_k_key=("k",), arms=(JudgedArm(limits=limits),))
    ask_for_most(judged, SharedTeacher(data.inputs, TEACHER, place(tmp_path, address)), data)
