"""Models that jobs score through servers: with the trained weights, whatever a server does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from sweeper.config.loading import load_study
from sweeper.config.models import ModelConfig
from sweeper.distillation.models.loading import load_model, load_tokenizer
from sweeper.execution.worker.run import run_job
from sweeper.records import IntermediatePoint, Outcome, TrialSpec
from sweeper.records.layout import JobPaths
from sweeper.study.final_scores import read_documents
from tests.support.chat_server import KEY, ChatServer, reply
from tests.support.model_server import Students, serving, serving_students
from tests.support.trial_jobs import prepare, trial_spec

WriteStudy = Callable[..., Path]
VLLM = {"api": "vllm", "retry_for": 5}
TEACHER = ModelConfig(model="builtin/adder-teacher")


@dataclass
class Served:
    """A server of students' weights, and the trials that it scores."""

    server: ChatServer
    students: Students
    loaded: TrialSpec
    """A trial that is scored without it."""
    spec: TrialSpec

    def documents(self) -> list[Any]:
        """Scores of the documents of the trial that ran last."""
        return read_documents(JobPaths(Path(self.spec.place.directory)).documents)


@pytest.fixture
def served(write_study: WriteStudy, tmp_path: Path) -> Iterator[Served]:
    loaded = trial_spec(load_study(write_study()), "sft")
    student = load_model(loaded.origin.student, "cpu")
    tokenizer = load_tokenizer(TEACHER)
    with serving_students(tmp_path / "server", student, tokenizer) as (server, students, address):
        evaluation = loaded.origin.evaluation.model_copy(update={"engine": "vllm"})
        spec = loaded.model_copy(
            update={
                "origin": loaded.origin.model_copy(update={"evaluation": evaluation}),
                "place": loaded.place.model_copy(update={"served_student": address}),
            }
        )
        yield Served(server, students, loaded, spec)


def completed(spec: TrialSpec) -> Outcome:
    outcome = run_job(spec)
    assert outcome.state == "completed", outcome.failure
    return outcome


def test_a_trial_is_scored_through_the_server_with_its_own_weights(
    served: Served, tmp_path: Path
) -> None:
    loaded = completed(served.loaded)
    expected = served.documents()
    found = completed(served.spec)
    assert served.documents() == expected
    assert loaded.scores is not None and found.scores is not None
    assert found.scores.tasks == loaded.scores.tasks
    assert (found.scores.engine, loaded.scores.engine) == ("vllm", "transformers")
    assert served.students.given == 1
    assert found.cost is not None and found.cost.served["student"] > 0
    # The key and the weights are nowhere.
    directory = Path(served.spec.place.directory)
    texts = [path.read_bytes() for path in directory.rglob("*") if path.is_file()]
    assert not any(KEY.encode() in text for text in texts)
    assert not list(directory.rglob("*.safetensors"))


def test_a_server_that_is_started_again_gets_the_weights_again(served: Served) -> None:
    expected = completed(served.loaded).scores
    # Three requests give it weights, then it answers two.
    served.server.faults = [*[None] * 6, served.students.restart]
    found = completed(served.spec).scores
    assert found is not None and expected is not None
    assert found.tasks == expected.tasks
    assert served.students.given == 2


@pytest.mark.slow
def test_a_server_that_does_not_stay_up_fails_the_trial(served: Served) -> None:
    served.server.faults = [*[None, None, None, None, served.students.restart] * 20]
    outcome = run_job(served.spec)
    assert outcome.failure is not None and outcome.failure.kind == "server"
    assert "was started again 5 times" in outcome.failure.message
    assert not JobPaths(Path(served.spec.place.directory)).documents.exists()


def test_a_request_that_is_refused_blames_the_servers_keys(served: Served) -> None:
    served.server.faults = [*[None] * 4, *[reply(400, "maximum context length")] * 64]
    outcome = run_job(served.spec)
    assert outcome.failure is not None and outcome.failure.kind == "bad_input"
    assert outcome.failure.key == ("compute", "vllm")
    assert "Check max_length and options" in outcome.failure.message


def test_a_student_is_scored_through_it_in_the_middle_of_its_training(served: Served) -> None:
    point = IntermediatePoint(index=0, step=2, documents=2)
    files = JobPaths(Path(served.spec.place.directory))
    pruned = []
    for spec in (served.loaded, served.spec):
        files.progress.unlink(missing_ok=True)
        files.prune_decision.write_text('{"index": 0, "goes_on": false}')
        outcome = run_job(spec.model_copy(update={"interim": (point,)}))
        assert outcome.state == "pruned" and outcome.interim is not None
        pruned.append(outcome.interim)
    assert pruned[0] == pruned[1]
    assert served.students.given == 1


@pytest.mark.slow
def test_a_served_teacher_is_scored_through_its_own_server(
    write_study: WriteStudy, tmp_path: Path
) -> None:
    loaded, files = prepare(load_study(write_study()), "teacher")
    expected = read_documents(files.documents)
    tokenizer = load_tokenizer(TEACHER)
    with serving(load_model(TEACHER, "cpu"), tokenizer) as (server, _):
        teacher = {"model": TEACHER.model, "server": {"url": server.url, **VLLM}}
        changes: dict[str, Any] = {"teacher": teacher, "arms": {"seqkd": {}, "sft": {}}}
        study = load_study(write_study(**changes, study="served"), ["evaluation.engine=vllm"])
        for step in ("teacher", "test_teacher"):
            found, files = prepare(study, step)
            assert found.state == "completed", found.failure
            assert found.scores is not None and loaded.scores is not None
            assert found.scores.engine == "vllm"
            assert not any("no score" in note for note in found.notes)
            if step == "teacher":
                assert found.scores.tasks == loaded.scores.tasks
                assert read_documents(files.documents) == expected
