"""Scores through the real vLLM: those of the loaded model, document by document."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from lm_eval.api.instance import Instance

from sweeper.config.models import ModelConfig
from sweeper.config.started_server import StartedServer
from sweeper.evaluation.served_model import AnsweringModel, ServedLM
from sweeper.foundation.errors import BadInputError
from sweeper.records.layout import ServerPaths
from sweeper.records.outcome_files import read_outcome
from sweeper.serving.launch import find_vllm, server_python, vllm_launch
from sweeper.serving.model_server import ModelServer, Patience
from sweeper.serving.reach import Reached
from sweeper.serving.student_engine import reach_student
from tests.support.scored_tasks import TASKS, Pair, assert_same, make_pair, scored, write_tasks
from tests.support.served_models import wait_until_up
from tests.support.whole_studies import WholeStudy

WriteStudy = Callable[..., Path]
pytestmark = [pytest.mark.vllm, pytest.mark.timeout(900)]
PATIENCE = 400.0
"""Seconds that a start may take on a machine with much to do."""
SOON = Patience(check_every=1.0, hung_after=20.0, back_off=(0.0, 0.0, 0.0))


@dataclass
class Served:
    """A model that is loaded here, and served by vLLM."""

    pair: Pair
    server: ModelServer
    tasks: Path

    def reached(self) -> Reached:
        assert self.server.address is not None
        return reach_student(self.server.address, 8)

    def model(self) -> AnsweringModel:
        return self.pair.at(self.reached())


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("model")
    # vLLM's attention on a CPU has no smaller heads than of 32.
    pair = make_pair(folder, layers=2, width=64)
    keys = StartedServer.model_validate({"start": "vllm", "options": {"max_num_seqs": 8}})
    version, problem = find_vllm(server_python(keys))
    assert problem == ""
    launch = vllm_launch(
        "teacher",
        ModelConfig(model=str(folder), dtype="float32"),
        keys,
        source=str(folder),
        content="hash",
        version=version,
        devices=("cpu",),
    )
    place = ServerPaths(tmp_path_factory.mktemp("server") / "teacher")
    with ModelServer(launch, place, SOON) as server:
        wait_until_up(server, PATIENCE)
        yield Served(pair, server, write_tasks(tmp_path_factory.mktemp("tasks")))


@pytest.mark.parametrize("chat", [False, True])
def test_scores_are_those_of_the_loaded_model(served: Served, chat: bool) -> None:
    options: dict[str, Any] = {"chat": chat, "system_prompt": "Be brief." if chat else None}
    for name in TASKS:
        found, expected = (
            scored(served.pair, model, served.tasks, name, **options)
            for model in (served.model(), served.pair.model)
        )
        assert_same(found, expected, rounding=1e-4)


def test_tasks_that_sample_draw_the_same_each_time(served: Served) -> None:
    first, second = (scored(served.pair, served.model(), served.tasks, "sampled") for _ in range(2))
    assert first.samples == second.samples


def test_the_longest_texts_fit(served: Served) -> None:
    """Windows as long as the model reads, and prompts that are cut, are not refused."""
    text = "".join(chr(33 + number % 90) for number in range(3000))
    pair = served.pair
    options: dict[str, Any] = {"batch_size": 2, "add_bos_token": None}
    with ServedLM(served.model(), pair.tokenizer, end_ids=pair.ends(), **options) as model:
        asked = Instance("loglikelihood_rolling", {}, (text,), 0)  # type: ignore[arg-type]
        [found] = model.loglikelihood_rolling([asked])
        assert found < 0
        model.generate_until([Instance("generate_until", {}, (text, {"max_gen_toks": 5}), 0)])


def test_a_text_that_the_server_has_no_room_for_is_refused(served: Served) -> None:
    longer = served.pair.model.config.to_dict() | {"max_position_embeddings": 4096}
    config = type(served.pair.model.config)(**longer)
    model = AnsweringModel(config, served.pair.model.generation_config, served.reached())
    options: dict[str, Any] = {"batch_size": 1, "add_bos_token": None}
    text = "x" * 2000
    with (
        ServedLM(model, served.pair.tokenizer, end_ids=served.pair.ends(), **options) as lm,
        pytest.raises(BadInputError, match="1024") as caught,
    ):
        lm.generate_until([Instance("generate_until", {}, (text, {"max_gen_toks": 5}), 0)])
    assert caught.value.key == ("compute", "vllm")


@pytest.mark.soak
def test_a_study_has_the_scores_of_loaded_models(write_study: WriteStudy, tmp_path: Path) -> None:
    """Teacher, start, trials and winners; documents of exact matches are right or wrong alike."""
    keys = {"max_length": 128, "options": {"max_num_seqs": 8}}
    study_file = write_study(
        teacher={
            "model": "builtin/adder-teacher",
            "dtype": "float32",
            "server": {"start": "vllm", **keys},
        },
        # vLLM on a CPU has no attention for the heads of the built-in student.
        student={"model": "builtin/adder-teacher"},
        arms={"sft": {}},
        trials=1,
        confirm={"seeds": 1},
        compare=[["sft", "teacher"]],
        compute={"vllm": keys},
        evaluation={
            **{"selection": "selection.yaml", "test": "test.yaml", "samples": 2},
            "engine": "vllm",
        },
    )
    served = WholeStudy(study_file.parent, limit=800.0)
    loaded = served.copy(tmp_path / "loaded")
    served.check(served.run())
    by_transformers = ("teacher.server=null", "evaluation.engine=transformers", "compute={}")
    loaded.check(loaded.run(*(part for value in by_transformers for part in ("--set", value))))
    compared = 0
    for path in sorted(loaded.paths.directory.rglob("*documents*.jsonl")):
        other = served.paths.directory / path.relative_to(loaded.paths.directory)
        assert other.read_text() == path.read_text(), path
        compared += 1
    # Both ends and the trial on the selection suite; both ends and its run on the test suite.
    assert compared >= 6
    outcome = read_outcome(served.paths.preparation("teacher"))
    assert outcome is not None and outcome.scores is not None
    assert outcome.scores.engine == "vllm"
