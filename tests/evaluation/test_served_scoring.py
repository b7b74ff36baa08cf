"""A model behind a server has the scores, document by document, that it has when it is loaded."""

from __future__ import annotations

import itertools
import math
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from transformers import AutoConfig

from sweeper.config.models import ModelConfig
from sweeper.config.suite import SuiteConfig, SuiteTask
from sweeper.distillation.models.loading import load_model, load_tokenizer
from sweeper.evaluation.served_model import AnsweringModel, ServedLM, check_servable
from sweeper.evaluation.tasks import load_tasks
from sweeper.foundation.errors import BadInputError, NoAnswerError
from sweeper.records import SuiteSpec
from sweeper.serving.client import OtherWeightsError
from sweeper.serving.likelihoods import read_likelihood
from sweeper.serving.replies import NonsenseError
from tests.support.chat_server import (
    KEY,
    ChatServer,
    Fault,
    chat_server,
    close,
    half_a_body,
    hanging,
    reply,
    send,
)
from tests.support.model_server import reached_at, serving
from tests.support.scored_tasks import (
    ROWS,
    TASKS,
    Pair,
    assert_same,
    make_pair,
    scored,
    write_tasks,
)
from tests.support.tiny_studies import write_yaml


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return make_pair(tmp_path_factory.mktemp("m"))


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tasks(tmp_path_factory.mktemp("tasks"))


@pytest.mark.parametrize("chat", [False, True])
@pytest.mark.parametrize("name", TASKS)
def test_scores_are_those_of_the_loaded_model(
    pair: Pair, tasks: Path, name: str, chat: bool
) -> None:
    options: dict[str, Any] = {"chat": chat, "system_prompt": "Be brief." if chat else None}
    loaded = scored(pair, pair.model, tasks, name, **options)
    with serving(pair.model, pair.tokenizer) as (_, reached):
        served = scored(pair, pair.at(reached), tasks, name, **options)
    assert_same(served, loaded)
    assert (served.scores.engine, loaded.scores.engine) == ("vllm", "transformers")
    assert served.scores.dtype == "float32"


def test_the_longest_texts(pair: Pair) -> None:
    """Prompts are cut as HFLM cuts them; likelihoods lack the last token that is never read."""
    config = AutoConfig.for_model(**{**pair.model.config.to_dict(), "max_position_embeddings": 24})
    text = "".join(map(chr, range(40, 100)))
    pair.model.config.max_position_embeddings, whole = 24, 1024
    try:
        with serving(pair.model, pair.tokenizer) as (server, reached):
            model = AnsweringModel(config, pair.model.generation_config, reached)
            options: dict[str, Any] = {"batch_size": 2, "add_bos_token": False}
            with ServedLM(model, pair.tokenizer, end_ids=pair.ends(), **options) as served:
                assert served.max_length == 24
                loaded = HFLM(pair.model, tokenizer=pair.tokenizer, max_length=22, **options)
                for kind, arguments in (
                    ("loglikelihood_rolling", (text,)),
                    ("loglikelihood", (text, "abc")),
                    ("loglikelihood", ("", "abc")),
                ):
                    asked = [Instance(kind, {}, arguments, 0)]  # type: ignore[arg-type]
                    found, expected = (getattr(lm, kind)(asked) for lm in (served, loaded))
                    assert torch.tensor(found) == pytest.approx(torch.tensor(expected), rel=1e-5)
                assert len(server.asked) == 5
                assert max(len(body["prompt"]) for body in server.asked) == 23
                asked = [Instance("generate_until", {}, (text, {"max_gen_toks": 5}), 0)]
                served.generate_until(asked)
        assert server.asked[-1]["prompt"] == pair.tokenizer(text)["input_ids"][-19:]
        assert server.asked[-1]["max_tokens"] == 5
    finally:
        pair.model.config.max_position_embeddings = whole


def test_greedy_continuations_are_told_from_others() -> None:
    named = ModelConfig(model="builtin/adder-teacher")
    adder = Pair(load_model(named, "cpu"), load_tokenizer(named))
    options: dict[str, Any] = {"batch_size": 2, "add_bos_token": None}
    answers = ("4+8+0=12;", "4+8+0=13;", "5")
    asked = [Instance("loglikelihood", {}, ("1234+5678?", one), 0) for one in answers]  # type: ignore[arg-type]
    with serving(adder.model, adder.tokenizer) as (_, reached):
        model = adder.at(reached)
        with ServedLM(model, adder.tokenizer, end_ids=adder.ends(), **options) as served:
            assert [greedy for _, greedy in served.loglikelihood(asked)] == [True, False, False]


def test_tasks_that_sample_draw_the_same_each_time(pair: Pair, tasks: Path) -> None:
    complete = {"token_ids": [60, 61, 0], "text": "", "finish_reason": "stop"}
    asked = []
    for _ in range(2):
        with chat_server(answer=lambda body: ("", complete)) as server:
            scored(pair, pair.at(reached_at(server)), tasks, "sampled", batch_size=8)
        asked.append({str(body["prompt"]) + str(body["seed"]): body for body in server.asked})
    assert asked[0] == asked[1]
    assert len(asked[0]) == 2 * len(ROWS)
    for body in asked[0].values():
        # 50: transformers' default, which the task did not change.
        assert (body["temperature"], body["top_p"], body["top_k"]) == (0.7, 0.9, 50)


@pytest.mark.parametrize(
    ("settings", "refused"),
    [
        ({"num_beams": 2, "do_sample": False}, "num_beams"),
        ({"no_repeat_ngram_size": 2}, "no_repeat_ngram_size"),
        ({"num_beams": 1, "max_gen_toks": 4, "until": ["a"], "min_p": 0.1, "top_k": 0}, None),
    ],
)
def test_decoding_that_servers_do_not_have_is_refused(
    tmp_path: Path, settings: dict[str, Any], refused: str | None
) -> None:
    write_tasks(tmp_path)
    task = yaml.safe_load((tmp_path / "generation.yaml").read_text())
    write_yaml(tmp_path / "own.yaml", {**task, "task": "own", "generation_kwargs": settings})
    config = SuiteConfig(suite="s", tasks=(SuiteTask(task="choice"), SuiteTask(task="own")))
    suite = SuiteSpec(config=config, task_directories=(str(tmp_path),), content_hash="h")
    leaves = load_tasks(suite)
    if refused is None:
        check_servable(leaves)
    else:
        with pytest.raises(BadInputError, match=rf"own: .*{refused}: expected none"):
            check_servable(leaves)


def test_nothing_random_is_disturbed(pair: Pair, tasks: Path) -> None:
    state = torch.get_rng_state()
    with serving(pair.model, pair.tokenizer) as (_, reached):
        scored(pair, pair.at(reached), tasks, "choice")
    assert torch.equal(torch.get_rng_state(), state)


FAULTS: dict[str, Fault] = {
    "429": reply(429, "busy", Retry_After="0"),
    "500": reply(500, "engine"),
    "nonsense": lambda handler: send(handler, 200, b"<html>"),
    "no tokens": lambda handler: send(handler, 200, {"choices": [{"finish_reason": "stop"}]}),
    "half": half_a_body,
    "closed": close,
}


@pytest.mark.parametrize("name", ["generation", "choice"])
@pytest.mark.parametrize("fault", FAULTS)
def test_what_passes_is_asked_again(
    pair: Pair, tasks: Path, name: str, fault: str, capsys: pytest.CaptureFixture[str]
) -> None:
    loaded = scored(pair, pair.model, tasks, name)
    faults: list[Fault | None] = [None, FAULTS[fault]]
    with serving(pair.model, pair.tokenizer, faults=faults) as (_, reached):
        served = scored(pair, pair.at(reached), tasks, name)
    assert_same(served, loaded)
    assert "asking again in" in capsys.readouterr().out


def test_a_server_that_hangs_is_asked_again(pair: Pair, tasks: Path) -> None:
    release = threading.Event()
    with serving(pair.model, pair.tokenizer, faults=[hanging(release)]) as (_, reached):
        quick = reached._replace(server=reached.server.model_copy(update={"timeout": 0.3}))
        try:
            served = scored(pair, pair.at(quick), tasks, "choice", batch_size=1)
        finally:
            release.set()
    assert_same(served, scored(pair, pair.model, tasks, "choice"))


def test_a_server_that_stays_away_fails_the_score(pair: Pair, tasks: Path) -> None:
    dies = itertools.chain([None] * 3, itertools.repeat(close))
    server: ChatServer
    with serving(pair.model, pair.tokenizer) as (server, reached):
        server.faults = list(itertools.islice(dies, 60))
        patience = reached._replace(server=reached.server.model_copy(update={"retry_for": 0.05}))
        with pytest.raises(NoAnswerError, match=r"does not answer: text .* was asked"):
            scored(pair, pair.at(patience), tasks, "choice")
        before = len(server.asked)
    # Nobody goes on to ask.
    assert len(server.asked) == before < 3 + 2 * 4


def test_a_request_that_is_refused_stops_at_once(pair: Pair, tasks: Path) -> None:
    with serving(pair.model, pair.tokenizer) as (server, reached):
        server.always = reply(400, "This model's maximum context length is 8 tokens.")
        blamed = reached._replace(blamed=("compute", "vllm"))
        with pytest.raises(BadInputError, match="maximum context length is 8") as caught:
            scored(pair, pair.at(blamed), tasks, "generation", batch_size=1)
        assert caught.value.key == ("compute", "vllm")
        # The next one is under way by then.
        assert len(server.asked) <= 2
        server.always = reply(412)
        with pytest.raises(OtherWeightsError):
            scored(pair, pair.at(reached), tasks, "generation")


def test_a_model_that_computes_no_numbers_has_a_score_that_is_none(pair: Pair, tasks: Path) -> None:
    """What vLLM 0.32 answers of a model whose logits are NaN."""
    with serving(pair.model, pair.tokenizer) as (server, reached):
        server.always = reply(400, "Out of range float values are not JSON compliant")
        found = scored(pair, pair.at(reached), tasks, "likelihood")
    assert math.isnan(found.scores.score)


def test_the_key_goes_to_the_server_alone(
    pair: Pair, tasks: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "another")
    faults: list[Fault | None] = [
        lambda handler: reply(500, handler.headers["Authorization"])(handler)
    ]
    with serving(pair.model, pair.tokenizer, key=KEY, faults=faults) as (_, reached):
        scored(pair, pair.at(reached), tasks, "choice")
    said = capfd.readouterr()
    assert "500" in said.out
    assert KEY not in said.out + said.err


@pytest.fixture
def places() -> Iterator[list[Any]]:
    yield [None, {"7": {"logprob": -1.0, "rank": 1}}, {"9": {"logprob": -2.0, "rank": 3}}]


def test_likelihoods_of_the_last_tokens(places: list[Any]) -> None:
    body = {"choices": [{"prompt_logprobs": places}]}
    last, both = (read_likelihood(body, [5, 7, 9], count) for count in (1, 2))
    assert (last.log_probability, last.greedy) == (-2.0, False)
    assert (both.log_probability, both.greedy) == (-3.0, False)
    first = read_likelihood({"choices": [{"prompt_logprobs": places[:2]}]}, [5, 7], 1)
    assert (first.log_probability, first.greedy) == (-1.0, True)


@pytest.mark.parametrize(
    "changed",
    [
        None,
        {},
        {"8": {"logprob": -1.0, "rank": 1}},
        {"9": {"logprob": -1.0}},
        {"9": {"logprob": "x", "rank": 1}},
        {"9": {"logprob": 1.0, "rank": 1}},
        {"9": -1.0},
    ],
)
def test_likelihoods_that_are_none(places: list[Any], changed: Any) -> None:
    body = {"choices": [{"prompt_logprobs": [*places[:2], changed]}]}
    with pytest.raises(NonsenseError):
        read_likelihood(body, [5, 7, 9], 1)
    for nothing in (
        None,
        [],
        {},
        {"choices": [{}]},
        {"choices": [{"prompt_logprobs": places[:2]}]},
    ):
        with pytest.raises(NonsenseError):
            read_likelihood(nothing, [5, 7, 9], 1)
