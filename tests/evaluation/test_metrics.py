"""Metrics mean what a good and a wrecked model make of them, or are refused at once."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import lm_eval.api.metrics  # noqa: F401  (fills the registries)
import numpy as np
import pytest
import torch
from datasets import Dataset, DatasetDict
from lm_eval.api.registry import aggregation_registry, metric_registry
from lm_eval.api.task import ALL_OUTPUT_TYPES, ConfigurableTask

from sweeper.config.builtin.addition import problems
from sweeper.config.models import ModelConfig
from sweeper.config.suite import SuiteConfig, SuiteTask
from sweeper.distillation.models.loading import load_model, load_tokenizer
from sweeper.evaluation.metrics import read_metric
from sweeper.evaluation.scoring import score
from sweeper.evaluation.tasks import load_tasks, scored_by
from sweeper.evaluation.values import Metric, check_value
from sweeper.foundation.errors import BadInputError
from sweeper.records import Scores, SuiteSpec

DOCUMENTS = 6
WAY_ON = re.compile(r"\b(expected|write|name|leave|give|use|let|choose)\b")
"""How a refusal says what to do."""
OUTPUTS: dict[str, dict[str, Any]] = {
    "loglikelihood": {},
    "loglikelihood_rolling": {"doc_to_text": "", "doc_to_target": "text"},
    "multiple_choice": {"doc_to_choice": "choices", "doc_to_target": "gold"},
    "generate_until": {"generation_kwargs": {"until": ["\n"], "max_gen_toks": 44}},
}
FUNCTIONS = '''
import functools
import math

NAMES = ["nats"]

def log_likelihood(doc, results):
    return {name: results[0][0] / len(doc["answer"]) for name in NAMES}

def nats(doc, results):
    return {name: -results[0][0] / len(doc["answer"]) for name in NAMES}

def pair(doc, results):
    return {name: (results[0][0], len(doc["answer"])) for name in NAMES}

def right(doc, results):
    """The share of the reference's characters that stand at their place."""
    wanted = doc["answer"]
    return {"right": sum(a == b for a, b in zip(results[0], wanted)) / len(wanted)}

def sometimes(doc, results):
    return {"right": 1.0} if doc["place"] % 2 else {"left": 1.0}

def not_a_number(doc, results):
    return {"right": math.nan if doc["place"] == 1 else 1.0}

def renamed(doc, results):
    return {"n" + "ear": 1.0}

def other(function):
    @functools.wraps(function)
    def replaced(*arguments):
        return {"near": function(*arguments)["right"]}
    return replaced

@other
def decorated(doc, results):
    return {"right": 1.0}

def bare(doc, results):
    return {"right": 1.0}

wrapped = other(bare)

def merged(doc, results):
    return {"left": 0.0, **{"near": 1.0}}

def chosen(doc, results):
    return {"left": 0.0} if results is None else {"near": 1.0}

def inner(doc, results):
    def left():
        return {"left": 0.0}
    return {"near": 1.0, **left()}

def assigned(doc, results):
    values = {"left": 0.0}
    values["near"] = 1.0
    return values

def judge(doc, results):
    raise SystemExit("a judge was called when tasks were loaded")

def strict(doc, results):
    return {"right": float(int(results[0]) == doc["gold"])}

def nothing(doc, results):
    pass

def strict_metric(references, predictions):
    return int(predictions[0])

def near(references, predictions):
    return sum(a == b for a, b in zip(references[0], predictions[0]))

def keys(references, predictions):
    return {"near@1": 1.0}

def mean(values):
    total = 0.0
    for value in values:
        total += value
    return total / len(values)

def trimmed(values):
    return mean(sorted(values)[1:-1])

def worst(values):
    return min(values)

def exponential(values):
    return math.exp(-mean(values))

def exponential_of_nats(values):
    return math.exp(mean(values))
'''


def rows() -> Iterator[dict[str, Any]]:
    for place, problem in enumerate(problems("test", DOCUMENTS)):
        chain, result = problem["answer"].split("#")
        wrong = [f"{chain}#{int(result) + change}" for change in (-1, 1, 20)]
        gold = place % 4
        choices = [*wrong[:gold], problem["answer"], *wrong[gold:]]
        text = problem["question"] + problem["answer"]
        more = {"choices": choices, "gold": gold, "place": place, "text": text}
        yield {**problem, **more}


def keys_of(output_type: str, **keys: Any) -> dict[str, Any]:
    return {
        "task": "t",
        "test_split": "test",
        "output_type": output_type,
        "doc_to_text": "question",
        "doc_to_target": "answer",
        "target_delimiter": "",
        **OUTPUTS[output_type],
        **keys,
    }


def make_task(output_type: str, **keys: Any) -> Any:
    """Return lm-eval's task over ``rows``."""
    docs = DatasetDict({"test": Dataset.from_list(list(rows()))})
    return ConfigurableTask(config=keys_of(output_type, custom_dataset=lambda **_: docs, **keys))


def write_task(
    folder: Path, output_type: str = "generate_until", name: str = "t", **keys: Any
) -> None:
    """Write a task over ``rows`` into a folder; a text ``!function m.f`` becomes that tag."""
    folder.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(row) + "\n" for row in rows())
    (folder / "rows.jsonl").write_text(text)
    data = {"data_files": {"test": "rows.jsonl"}}
    task = keys_of(output_type, dataset_path="json", dataset_kwargs=data, **{"task": name, **keys})
    flow = re.sub(r'"(!function [\w.]+)"', r"\1", json.dumps(task))
    (folder / f"{name}.yaml").write_text(flow)


def write_functions(folder: Path, *names: str) -> None:
    """Write the functions that tasks name; some return their values under the names given."""
    text = FUNCTIONS.replace('["nats"]', repr(list(names))) if names else FUNCTIONS
    (folder / "u.py").write_text(text)


def listed(metric: str, aggregation: str | None, stated: Any) -> dict[str, Any]:
    item = {"metric": metric, "aggregation": aggregation, "higher_is_better": stated}
    return {key: value for key, value in item.items() if value is not None}


def suite(folder: Path, *tasks: SuiteTask) -> SuiteSpec:
    config = SuiteConfig(suite="s", tasks=tasks)
    return SuiteSpec(config=config, task_directories=(str(folder),), content_hash="h")


def load(folder: Path, **entry: Any) -> Metric:
    [leaf] = load_tasks(suite(folder, SuiteTask(**{"task": "t", **entry})))
    return leaf.metric


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return load_tokenizer(ModelConfig(model="builtin/adder-teacher"))


@pytest.fixture(scope="module")
def good() -> Any:
    return load_model(ModelConfig(model="builtin/adder-teacher"), "cpu")


@pytest.fixture(scope="module")
def wrecked(good: Any) -> Any:
    """The good model with noise on its weights, as large as they are."""
    torch.manual_seed(0)
    model = copy.deepcopy(good)
    with torch.no_grad():
        for weights in model.parameters():
            weights += torch.randn_like(weights) * weights.std(correction=0)
    return model


@pytest.fixture
def better(good: Any, wrecked: Any, tokenizer: Any) -> Any:
    """Says whether the good model scores better, task by task, and in the suite."""

    def both(folder: Path, *tasks: SuiteTask) -> list[bool]:
        found = [
            score(model, tokenizer, suite(folder, *tasks), batch_size=DOCUMENTS, chat=False).scores
            for model in (good, wrecked)
        ]
        pairs = [*zip(*(scores.tasks for scores in found), strict=True), tuple(found)]
        return [ahead(*pair) for pair in pairs]

    def ahead(one: Scores, other: Scores) -> bool:
        assert one.higher_is_better == other.higher_is_better
        return one.score > other.score if one.higher_is_better else one.score < other.score

    return both


def test_every_metric_of_every_output_type_is_understood_or_refused(
    tmp_path: Path, better: Any
) -> None:
    """Whatever lm-eval registers, with every aggregation, and directions right and wrong."""
    metrics, aggregations = sorted(metric_registry), sorted(aggregation_registry)
    tasks: dict[Any, SuiteTask] = {}
    understood = set()
    for output_type in ALL_OUTPUT_TYPES:
        for aggregation in (None, *aggregations):
            for stated in (None, True, False, "true") if aggregation in (None, "mean") else (None,):
                items = [listed(metric, aggregation, stated) for metric in metrics]
                task = make_task(output_type, metric_list=items)
                for metric in metrics:
                    try:
                        found = read_metric("t", task, SuiteTask(task="t"), metric)
                    except BadInputError as error:
                        assert "Task t" in str(error) and WAY_ON.search(str(error)), error
                        continue
                    assert stated != "true"
                    understood.add((output_type, metric))
                    # How values are read is the same for all that share a key: scored once.
                    key = (output_type, found.name, found.shown, found.higher_is_better)
                    if key not in tasks:
                        name = f"task{len(tasks)}"
                        write_task(tmp_path / "tasks", output_type, name, metric_list=items)
                        tasks[key] = SuiteTask(task=name, metric=metric)
    directions = {key[:3]: key[3] for key in tasks}
    assert len(directions) == len(tasks), "a metric has two directions"
    assert all(better(tmp_path / "tasks", *tasks.values()))
    # What people score by is understood, not refused.
    assert understood >= {
        ("loglikelihood", "acc"),
        ("loglikelihood", "perplexity"),
        *(("loglikelihood_rolling", f"{unit}_perplexity") for unit in ("word", "byte")),
        ("loglikelihood_rolling", "bits_per_byte"),
        *(("multiple_choice", f"acc{kind}") for kind in ("", "_norm", "_bytes", "_mutual_info")),
        ("generate_until", "exact_match"),
    }


@pytest.mark.parametrize("function", ["log_likelihood", "pair"])
def test_log_likelihoods_of_the_tasks_own_are_never_minimised(
    tmp_path: Path, better: Any, function: str
) -> None:
    names = ["perplexity", "word_perplexity", "byte_perplexity", "bits_per_byte"]
    understood: dict[Any, Any] = {}
    for aggregation in (None, *sorted(aggregation_registry)):
        for stated in (None, True, False):
            folder = tmp_path / f"{aggregation}-{stated}"
            items = [listed(name, aggregation, stated) for name in names]
            computed = {"process_results": f"!function u.{function}"}
            write_task(folder, "loglikelihood", metric_list=items, **computed)
            write_functions(folder, *names)
            task = make_task("loglikelihood", metric_list=items, process_results=dict)
            for name in names:
                try:
                    found = read_metric("t", task, SuiteTask(task="t"), name)
                except BadInputError as error:
                    assert name in str(error) and WAY_ON.search(str(error)), error
                    continue
                assert found.shown in ("nats", "nats_per_byte") and not found.higher_is_better
                takes_pairs = found.shown == "nats_per_byte"
                if takes_pairs == (function == "pair"):
                    understood[found] = folder, SuiteTask(task="t", metric=name)
    assert understood
    assert all(all(better(folder, task)) for folder, task in understood.values())


@pytest.mark.parametrize(
    ("keys", "entry", "expected"),
    [
        ({"aggregation": "mean", "higher_is_better": True}, {}, True),
        ({"aggregation": "mean"}, {"higher_is_better": True}, True),
        ({"aggregation": "nanmean", "higher_is_better": True}, {}, True),
        ({"aggregation": "!function u.mean", "higher_is_better": True}, {}, True),
        ({"aggregation": "mean", "higher_is_better": None}, {}, "nothing says whether a higher"),
        ({"aggregation": "mean"}, {}, "nothing says whether a higher"),
        ({"aggregation": "mean", "higher_is_better": "true"}, {}, "found 'true'"),
        ({"aggregation": "mean", "higher_is_better": "false"}, {}, "found 'false'"),
        ({"aggregation": "mean", "higher_is_better": 1}, {}, "found 1"),
        ({"aggregation": "median", "higher_is_better": True}, {}, "aggregated by median"),
        ({"aggregation": "!function u.trimmed", "higher_is_better": True}, {}, "by trimmed"),
        ({"aggregation": "!function u.worst", "higher_is_better": True}, {}, "by worst"),
        ({"aggregation": "!function u.exponential_of_nats"}, {}, "by exponential_of_nats"),
        ({"aggregation": "!function u.exponential"}, {}, "nothing says whether a higher"),
        ({"aggregation": "perplexity"}, {}, "nothing says whether a higher"),
        ({"aggregation": "perplexity", "higher_is_better": True}, {}, "better if it is lower"),
        ({"aggregation": "weighted_perplexity"}, {}, "aggregated by weighted_perplexity"),
    ],
)
def test_a_metric_of_the_tasks_own_has_the_direction_that_it_states(
    tmp_path: Path, better: Any, keys: dict[str, Any], entry: dict[str, Any], expected: bool | str
) -> None:
    items = [{"metric": "right", **keys}]
    write_task(tmp_path, metric_list=items, process_results="!function u.right")
    write_functions(tmp_path)
    if expected is True:
        assert load(tmp_path, **entry).higher_is_better
        return
    with pytest.raises(BadInputError, match=expected) as caught:
        load(tmp_path, **entry)
    assert "Task t" in str(caught.value) and "'right'" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "stated", "message"),
    [
        # lm-eval's names, for values of the task's own.
        ("acc", True, None),
        ("acc", None, None),
        ("acc", False, "lm-eval's own is better if it is higher"),
        ("f1", True, None),
        ("f1", None, "nothing says whether a higher 'f1'"),
        ("f1", False, "lm-eval's own is better if it is higher"),
        ("brier_score", False, None),
        ("brier_score", True, "lm-eval's own is better if it is lower"),
        ("perplexity", False, "give the metric another name"),
        ("perplexity", True, "give the metric another name"),
        ("target", True, "give the metric another name"),
    ],
)
def test_lm_evals_names_keep_their_direction(
    tmp_path: Path, name: str, stated: bool | None, message: str | None
) -> None:
    items = [listed(name, "mean", stated)]
    write_task(tmp_path, "loglikelihood", metric_list=items, process_results="!function u.nats")
    write_functions(tmp_path, name)
    if message is None:
        assert load(tmp_path).higher_is_better is (name != "brier_score")
        return
    with pytest.raises(BadInputError, match=message):
        load(tmp_path)


@pytest.mark.parametrize(
    ("output_type", "keys", "message"),
    [
        ("generate_until", {"metric": "near"}, "'near' is not one of|no metric 'near'"),
        ("multiple_choice", {"metric": "near"}, "no 'near'.*multiple_choice|no metric 'near'"),
        ("loglikelihood", {"metric": "near"}, "no 'near'.*output_type logl|no metric 'near'"),
        ("loglikelihood_rolling", {"metric": "acc"}, "lm-eval computes no 'acc'"),
        ("loglikelihood", {"metric": "!function u.near"}, "lm-eval computes no 'near'"),
        ("generate_until", {"metric": "acc"}, "has no number for a document by 'acc'"),
        ("generate_until", {"metric": "bleu"}, "has no number for a document by 'bleu'"),
        ("multiple_choice", {"metric": "likelihood"}, "has no number for a document"),
        ("generate_until", {"metric": "!function u.keys"}, r"\(keys\) returns no 'keys', only nea"),
        ("generate_until", {"metric": "!function u.near"}, None),
    ],
)
def test_a_metric_that_nothing_computes_is_refused_when_tasks_are_loaded(
    tmp_path: Path, output_type: str, keys: dict[str, Any], message: str | None
) -> None:
    items = [{**keys, "aggregation": "mean", "higher_is_better": True}]
    write_task(tmp_path, output_type, metric_list=items)
    write_functions(tmp_path)
    if message is None:
        assert load(tmp_path).higher_is_better
        return
    with pytest.raises(BadInputError, match=message):
        load(tmp_path)


def test_results_of_the_tasks_own_are_read_and_never_called(tmp_path: Path) -> None:
    items = [{"metric": "near", "aggregation": "mean", "higher_is_better": True}]
    write_functions(tmp_path)
    write_task(tmp_path, metric_list=items, process_results="!function u.right")
    with pytest.raises(BadInputError, match=r"process_results \(right\) returns no 'near', only r"):
        load(tmp_path)
    write_task(tmp_path, metric_list=items, process_results="!function u.judge")
    assert load(tmp_path).name == "near"
    write_task(tmp_path, metric_list=items, process_results="u.right")
    with pytest.raises(BadInputError, match="expected a function"):
        load(tmp_path)
    # What a text does not show for certain is not refused.
    for function in ("renamed", "decorated", "wrapped", "merged", "chosen", "inner", "assigned"):
        write_task(tmp_path, metric_list=items, process_results=f"!function u.{function}")
        assert load(tmp_path).name == "near"


def test_several_targets_have_exact_matches_only(tmp_path: Path) -> None:
    targets = {"doc_to_target": "choices"}
    for metric in ("!function u.near", "bleu"):
        items = [{"metric": metric, "aggregation": "mean", "higher_is_better": True}]
        write_functions(tmp_path)
        write_task(tmp_path, metric_list=items, **targets)
        with pytest.raises(BadInputError, match="several targets, for which lm-eval makes 0 or 1"):
            load(tmp_path)
    write_task(tmp_path, metric_list=[{"metric": "exact_match"}], **targets)
    assert load(tmp_path).higher_is_better


def test_answers_that_a_task_samples_are_the_same_whenever_it_is_scored(
    tmp_path: Path, wrecked: Any, tokenizer: Any
) -> None:
    sampled = {"until": ["#"], "max_gen_toks": 9, "do_sample": True, "temperature": 1.0}
    write_task(tmp_path, metric_list=[{"metric": "exact_match"}], generation_kwargs=sampled)
    spec = suite(tmp_path, SuiteTask(task="t"))
    found = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        found.append(score(wrecked, tokenizer, spec, batch_size=6, chat=False, samples=6).samples)
    assert found[0] == found[1]
    assert len({sample.response for sample in found[0]}) == 6


@pytest.mark.parametrize("names", [["word_perplexity"], ["bits_per_byte", "word_perplexity"]])
def test_words_are_scored_by_nats_per_byte_whatever_is_next_to_them(
    tmp_path: Path, good: Any, tokenizer: Any, names: list[str]
) -> None:
    found = []
    for listed_names in (names, ["byte_perplexity"]):
        items = [{"metric": name} for name in listed_names]
        write_task(tmp_path, "loglikelihood_rolling", metric_list=items)
        spec = suite(tmp_path, SuiteTask(task="t", metric=listed_names[-1]))
        found.append(score(good, tokenizer, spec, batch_size=6, chat=False))
    assert found[0].documents == found[1].documents
    assert found[0].scores.tasks[0].metric == "nats_per_byte"


def test_what_a_suite_does_not_score_by_fails_nothing(
    tmp_path: Path, good: Any, tokenizer: Any
) -> None:
    """lm-eval's f1 knows two classes only, and its acc_all documents of one data set."""
    items = [{"metric": name} for name in ("exact_match", "bleu", "acc_all", "f1")]
    write_task(tmp_path / "a", metric_list=items)
    spec = suite(tmp_path / "a", SuiteTask(task="t", documents=(0, 2)))
    assert score(good, tokenizer, spec, batch_size=2, chat=False).scores.score == 1.0
    items = [{"metric": name} for name in ("acc", "f1", "mcc", "likelihood", "acc_mutual_info")]
    write_task(tmp_path / "b", "multiple_choice", metric_list=items)
    spec = suite(tmp_path / "b", SuiteTask(task="t", documents=(0, 3)))
    assert score(good, tokenizer, spec, batch_size=2, chat=False).scores.score == 1.0


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (True, 1.0),
        (2, 2.0),
        (0.5, 0.5),
        (np.float32(0.5), 0.5),
        (np.bool_(False), 0.0),
        (np.array(3), 3.0),
        (torch.tensor(0.25, dtype=torch.bfloat16), 0.25),
        (Fraction(1, 4), 0.25),
        (Decimal("0.5"), 0.5),
        (None, "None"),
        ("0.5", "'0.5'"),
        (np.str_("1"), "'1'"),
        ([1.0], r"\[1.0\]"),
        ((1.0, 2), r"\(1.0, 2\)"),
        ({"a": 1}, r"\{'a': 1\}"),
        (1j, "1j"),
        (np.array([1.0]), "array"),
        (torch.ones(2), "tensor"),
        (10**400, "1000"),
        ("x" * 99, r"x\.\.\.$|x\.\.\.,"),
    ],
)
def test_values_of_a_document(value: Any, expected: float | str) -> None:
    if isinstance(expected, float):
        assert check_value("t", 3, "near", value) == expected
        return
    with pytest.raises(BadInputError, match=expected) as caught:
        check_value("t", 3, "near", value)
    assert str(caught.value).startswith("Task t: the metric 'near' of document 3 is not a number")


def test_a_document_without_the_metric_is_named(tmp_path: Path, good: Any, tokenizer: Any) -> None:
    write_functions(tmp_path)
    items = [listed("right", "mean", True)]
    write_task(tmp_path, metric_list=items, process_results="!function u.sometimes")
    spec = suite(tmp_path, SuiteTask(task="t", documents=(1, 4)))
    with pytest.raises(BadInputError, match=r"document 2 has no 'right', only left"):
        score(good, tokenizer, spec, batch_size=2, chat=False)


@pytest.mark.parametrize(
    ("metric", "results", "message"),
    [
        (
            "right",
            "strict",
            r"its process_results failed on the answer \['.*: ValueError: invalid l",
        ),
        ("right", "nothing", r"its process_results: expected \{NAME: number\}, found None"),
        ("!function u.strict_metric", None, "its metrics failed on the answer.*ValueError: inval"),
    ],
)
def test_functions_that_fail_on_an_answer_are_bad_input(
    tmp_path: Path, good: Any, tokenizer: Any, metric: str, results: str | None, message: str
) -> None:
    write_functions(tmp_path)
    computed = {"process_results": f"!function u.{results}"} if results else {}
    write_task(tmp_path, metric_list=[listed(metric, "mean", True)], **computed)
    spec = suite(tmp_path, SuiteTask(task="t", documents=(0, 1)))
    with pytest.raises(BadInputError, match=f"Task t: {message}"):
        score(good, tokenizer, spec, batch_size=2, chat=False)


def test_nan_document(tmp_path: Path, good: Any, tokenizer: Any) -> None:
    write_functions(tmp_path)
    items = [listed("right", "nanmean", True)]
    write_task(tmp_path, metric_list=items, process_results="!function u.not_a_number")
    spec = suite(tmp_path, SuiteTask(task="t", documents=(0, 3)))
    with pytest.raises(BadInputError, match="Task t: the metric 'right' of document 1 is nan"):
        score(good, tokenizer, spec, batch_size=2, chat=False)


def test_values_that_are_not_finite_are_a_diverged_models(
    tmp_path: Path, good: Any, tokenizer: Any
) -> None:
    write_functions(tmp_path, "nats")
    items = [listed("nats", "mean", False)]
    write_task(tmp_path, "loglikelihood", metric_list=items, process_results="!function u.nats")
    broken = copy.deepcopy(good)
    with torch.no_grad():
        broken.get_input_embeddings().weight.fill_(float("nan"))
    spec = suite(tmp_path, SuiteTask(task="t", documents=(0, 2)))
    found = score(broken, tokenizer, spec, batch_size=2, chat=False)
    assert not np.isfinite(found.scores.score)


def test_log_likelihoods_above_0_are_none(tmp_path: Path, wrecked: Any, tokenizer: Any) -> None:
    write_functions(tmp_path, "perplexity")
    items = [listed("perplexity", "perplexity", False)]
    write_task(tmp_path, "loglikelihood", metric_list=items, process_results="!function u.nats")
    spec = suite(tmp_path, SuiteTask(task="t", documents=(0, 2)))
    with pytest.raises(BadInputError, match="but a log-likelihood is at most 0"):
        score(wrecked, tokenizer, spec, batch_size=2, chat=False)


@pytest.mark.parametrize(
    ("aggregation", "stated", "told"),
    [
        ("perplexity", False, "t by nats (lower is better; mean of nats, the logarithm of perp"),
        ("mean", None, "t by log_likelihood (higher is better; mean)"),
        ("mean", True, "t by log_likelihood (higher is better; mean)"),
    ],
)
def test_perplexity_inverted(
    tmp_path: Path, better: Any, aggregation: str, stated: bool | None, told: str
) -> None:
    items = [listed("perplexity", aggregation, stated), listed("acc", "mean", True)]
    write_task(tmp_path, "loglikelihood", metric_list=items)
    [words] = scored_by(load_tasks(suite(tmp_path, SuiteTask(task="t"))))
    assert words.startswith(told)
    assert all(better(tmp_path, SuiteTask(task="t")))


def test_a_mean_of_log_likelihoods_is_not_minimised(tmp_path: Path) -> None:
    write_task(tmp_path, "loglikelihood", metric_list=[listed("perplexity", "mean", False)])
    with pytest.raises(BadInputError, match="value of a document is a log-likelihood; leave high"):
        load(tmp_path)
    write_task(tmp_path, "loglikelihood", metric_list=[listed("perplexity", "mean", None)])
    with pytest.raises(BadInputError, match="value of a document is a log-likelihood; leave high"):
        load(tmp_path, higher_is_better=False)


def test_no_direction_inverted(tmp_path: Path, better: Any) -> None:
    write_functions(tmp_path)
    items = [listed("right", "mean", None)]
    write_task(tmp_path, metric_list=items, process_results="!function u.right")
    with pytest.raises(BadInputError, match="nothing says whether a higher 'right' is better"):
        load(tmp_path)
    assert all(better(tmp_path, SuiteTask(task="t", higher_is_better=True)))


def test_metric_without_aggregation(tmp_path: Path) -> None:
    write_functions(tmp_path)
    items = [{"metric": "right"}]
    write_task(tmp_path, metric_list=items, process_results="!function u.right")
    with pytest.raises(BadInputError, match=r"'right' .*aggregation: mean"):
        load(tmp_path)


def test_late_filter(tmp_path: Path) -> None:
    write_task(tmp_path, metric_list=[{"metric": "exact_match"}])
    with pytest.raises(BadInputError, match="Task t: no filter 'strict'; the task has none"):
        load(tmp_path, filter="strict")


SAVED: list[dict[str, Any]] = [
    {"repetition_penalty": 1.1, "no_repeat_ngram_size": 4},
    {"do_sample": True, "temperature": 9.0, "top_k": 3, "top_p": 0.8, "min_p": 0.1},
    {"num_beams": 3, "length_penalty": -9.0, "early_stopping": True},
    {"suppress_tokens": [5, 6, 7], "begin_suppress_tokens": [4]},
    {"forced_eos_token_id": 1, "forced_bos_token_id": 5, "max_new_tokens": 3},
    {"min_length": 70, "min_new_tokens": 50, "max_length": 3},
    {"bad_words_ids": [[5], [6, 7]], "sequence_bias": [[[8], -9.0]]},
    {"exponential_decay_length_penalty": [2, 9.0], "renormalize_logits": True},
    {"encoder_no_repeat_ngram_size": 2, "encoder_repetition_penalty": 2.0},
    {"guidance_scale": 3.0, "use_cache": False, "stop_strings": ["+"], "token_healing": True},
    {"num_return_sequences": 2, "do_sample": True},
    {"eos_token_id": [1, 1], "typical_p": 0.2, "epsilon_cutoff": 0.2, "eta_cutoff": 0.2},
]


@pytest.mark.parametrize("saved", SAVED, ids=lambda saved: next(iter(saved)))
def test_scoring_generation_config(
    tmp_path: Path, good: Any, tokenizer: Any, plain_samples: Any, saved: dict[str, Any]
) -> None:
    """A publisher's settings score no other model than the one that was trained."""
    folder = tmp_path / "model"
    good.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    path = folder / "generation_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **saved}))
    student = load_model(ModelConfig(model=str(folder)), "cpu")
    for name, value in saved.items():
        assert getattr(student.generation_config, name) == value
    write_task(tmp_path, metric_list=[{"metric": "exact_match"}])
    spec = suite(tmp_path, SuiteTask(task="t", documents=(0, 3)))
    found = score(student, tokenizer, spec, batch_size=3, chat=False, samples=3)
    assert found.samples == plain_samples


@pytest.fixture(scope="module")
def plain_samples(tmp_path_factory: pytest.TempPathFactory, good: Any, tokenizer: Any) -> Any:
    folder = tmp_path_factory.mktemp("plain")
    write_task(folder, metric_list=[{"metric": "exact_match"}])
    spec = suite(folder, SuiteTask(task="t", documents=(0, 3)))
    found = score(good, tokenizer, spec, batch_size=3, chat=False, samples=3)
    assert found.scores.score == 1.0
    return found.samples
