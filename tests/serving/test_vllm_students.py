"""Students through the real vLLM: it has their weights, samples from them, and trials share it."""

from __future__ import annotations

import json
import os
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch

from sweeper.config.models import LoraConfig, ModelConfig
from sweeper.config.started_server import StudentServer
from sweeper.distillation.models.adapters import add_adapter
from sweeper.distillation.models.loading import load_model
from sweeper.distillation.sampling.rollouts import Rollout, generate
from sweeper.distillation.sampling.served import ServedEngine
from sweeper.records import Resources
from sweeper.records.layout import JobPaths, ServerPaths
from sweeper.records.outcome_files import read_outcome
from sweeper.serving.launch import find_vllm, server_python, vllm_launch
from sweeper.serving.model_server import ModelServer, Patience
from sweeper.serving.start_log import read_server_record
from tests.support.sampled_models import assert_follows
from tests.support.served_models import wait_until_up
from tests.support.tiny_models import make_tiny
from tests.support.waiting import wait_until
from tests.support.whole_studies import WholeStudy

WriteStudy = Callable[..., Path]
pytestmark = [pytest.mark.vllm, pytest.mark.timeout(900)]
PATIENCE = 400.0
"""Seconds that a start may take on a machine with much to do."""
SOON = Patience(check_every=1.0, hung_after=20.0, back_off=(0.0, 0.0, 0.0))
KEYS: dict[str, Any] = {"max_length": 128, "options": {"max_num_seqs": 64}}
PROMPTS = [[5, 9, 11], [7, 8], [20, 4, 6, 30, 12]]
OPTIONS: dict[str, Any] = {
    "temperature": 0.0,
    "max_new_tokens": 12,
    "end_ids": [3],
    "pad_id": 0,
    "seed": 7,
    "batch_size": 64,
}


class Student:
    """A student, and the server that starts with its weights as they were."""

    def __init__(self, path: str, server: ModelServer, work: Path) -> None:
        self.path, self.server = path, server
        place = Resources(
            directory=str(work), device="cpu", threads=1, served_student=server.address
        )
        self.engine = ServedEngine(place, "float32", lambda role: nullcontext())

    def trained(self, seed: int, lora: LoraConfig | None = None) -> Any:
        """The student after some training."""
        model: Any = load_model(ModelConfig(model=self.path), "cpu")
        if lora is not None:
            model = add_adapter(model, lora, {}, seed)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for weights in model.parameters():
                if weights.requires_grad:
                    weights += 0.1 * torch.randn(weights.shape, generator=generator)
        return model

    def sample(self, model: Any, prompts: list[list[int]], **changes: Any) -> list[Rollout]:
        return self.engine(model, prompts, **{**OPTIONS, **changes})


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Student]:
    folder = tmp_path_factory.mktemp("student")
    # vLLM's attention on a CPU has no smaller heads than of 32.
    path = make_tiny(folder / "start", "llama3", width=64, spread=3.0)
    server = StudentServer.model_validate(KEYS)
    version, problem = find_vllm(server_python(server))
    assert problem == ""
    launch = vllm_launch(
        "student",
        ModelConfig(model=path, dtype="float32"),
        server,
        source=path,
        content="hash",
        version=version,
        devices=("cpu",),
    )
    with ModelServer(launch, ServerPaths(folder / "servers" / "student@cpu"), SOON) as running:
        wait_until_up(running, PATIENCE)
        yield Student(path, running, folder)


def tokens(rollouts: list[Rollout]) -> list[tuple[tuple[int, ...], bool]]:
    return [(rollout.tokens, rollout.finished) for rollout in rollouts]


@pytest.mark.parametrize("lora", [None, LoraConfig(r=4), LoraConfig(r=4, use_dora=True)])
def test_it_answers_for_the_weights_that_it_is_given(
    student: Student, lora: LoraConfig | None
) -> None:
    models = [student.trained(seed, lora) for seed in (1, 2)]
    expected = [generate(model, PROMPTS, **OPTIONS) for model in models]
    assert tokens(expected[0]) != tokens(expected[1])
    for index in (0, 1, 0):
        assert tokens(student.sample(models[index], PROMPTS)) == tokens(expected[index])


@pytest.mark.parametrize("temperature", [0.7, 1.6])
def test_samples_follow_the_students_distribution(student: Student, temperature: float) -> None:
    model = student.trained(3)
    asked = {"temperature": temperature, "max_new_tokens": 1, "end_ids": []}
    answers = student.sample(model, [PROMPTS[0]] * 1500, **asked)
    with torch.no_grad():
        chances = (model(torch.tensor([PROMPTS[0]])).logits[0, -1] / temperature).softmax(-1)
    assert_follows(Counter(answer.tokens[0] for answer in answers), chances)
    again = student.sample(model, [PROMPTS[0]] * 20, **asked)
    assert [answer.tokens for answer in again] == [answer.tokens for answer in answers[:20]]


def test_it_reports_log_probabilities_at_temperature_1(student: Student) -> None:
    model = student.trained(4)
    for prompt, answer in zip(
        PROMPTS, student.sample(model, PROMPTS, temperature=1.4), strict=True
    ):
        with torch.no_grad():
            logits = model(torch.tensor([[*prompt, *answer.tokens]])).logits[
                0, len(prompt) - 1 : -1
            ]
        chosen = torch.tensor(answer.tokens)[:, None]
        expected = logits.log_softmax(-1).gather(-1, chosen)[:, 0]
        assert answer.log_probs_at == 1.0
        assert answer.log_probs is not None
        torch.testing.assert_close(torch.tensor(answer.log_probs), expected, atol=1e-4, rtol=1e-4)


def test_a_server_that_is_started_again_gets_the_weights_again(student: Student) -> None:
    model = student.trained(5)
    expected = tokens(generate(model, PROMPTS, **OPTIONS))
    assert tokens(student.sample(model, PROMPTS)) == expected
    starts = len(_starts(student.server.paths))
    leader = json.loads(student.server.paths.processes.read_text())["server"]["pid"]
    os.killpg(leader, signal.SIGKILL)
    # It has its first weights again; asked at once, while it starts.
    assert tokens(student.sample(model, PROMPTS)) == expected
    wait_until(lambda: student.server.state == "up", "the restart", PATIENCE)
    assert len(_starts(student.server.paths)) == starts + 1


def _starts(paths: ServerPaths) -> tuple[Any, ...]:
    record = read_server_record(paths.record)
    assert record is not None
    return record.starts


def test_a_study_is_taught_sampled_and_scored_through_servers_that_start_once(
    write_study: WriteStudy,
) -> None:
    """Two trials at a time share the teacher's server, and that of the students' weights."""
    file = write_study(
        teacher={
            "model": "builtin/adder-teacher",
            "dtype": "float32",
            "server": {"start": "vllm", **KEYS},
        },
        student={"model": "builtin/adder-teacher", "keep_layers": 2, "lora": {"r": 4}},
        rollouts={"engine": "vllm"},
        arms={
            "gkd": {
                "search": {"lmbda": {"type": "categorical", "choices": [0.5, 1.0]}},
                "settings": {"max_new_tokens": 8, "teacher_signal": "top_k", "teacher_top_k": 8},
            },
            "seqkd": {"trials": 1},
        },
        evaluation={
            **{"selection": "selection.yaml", "test": "test.yaml", "samples": 2},
            "engine": "vllm",
        },
        confirm={"seeds": 1},
        compare_at=["steps"],
        compute={"workers": 2, "vllm": KEYS},
    )
    study = WholeStudy(file.parent, limit=800.0)
    study.check(study.run())
    servers = [study.paths.server(name) for name in ("teacher", "student@cpu")]
    for paths in servers:
        [start] = _starts(paths)
        assert start.end == "no longer needed"
        assert not paths.key.exists()
    jobs = [JobPaths(files.directory) for files in study.trials().values()]
    assert len({json.loads(job.spec.read_text())["place"]["served_teacher"]["url"] for job in jobs})
    outcomes = [read_outcome(job) for job in jobs]
    sampled = [outcome for outcome in outcomes if outcome and outcome.cost.generated_tokens]
    assert len(sampled) == 2
    for outcome in sampled:
        assert outcome.scores is not None and outcome.scores.engine == "vllm"
        assert outcome.rollouts is not None and outcome.rollouts.logprob_diff is not None
        assert outcome.rollouts.logprob_diff < 1e-3
        assert {"teacher", "student"} <= outcome.cost.served.keys()
    shown = json.loads(study.run("--json", command="report").stdout)
    assert {len(server["starts"]) for server in shown["servers"]} == {1}
