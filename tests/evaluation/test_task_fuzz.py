"""However a suite, a task file, a template or a row is damaged: one message, or the documents."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]
from lm_eval.utils import apply_template

from sweeper.config.loading import load_suite
from sweeper.evaluation.tasks import LeafTask, load_tasks
from sweeper.foundation.errors import BadInputError, ConfigError
from sweeper.study.manifest import suite_spec
from tests.support.task_projects import CHOICES, ROWS, TASK

EXAMPLES = {"fewshot_split": "test", "num_fewshot": 1, "description": "About {{n}}."}
FILTERS = [
    {
        "name": "last",
        "filter": [
            {"function": "regex", "group_select": -1, "regex_pattern": "(\\d+)"},
            {"function": "take_first"},
        ],
    }
]
TASKS: list[dict[str, Any]] = [
    {**TASK, **EXAMPLES, "filter_list": FILTERS, "metadata": {"version": 1.0}},
    {**{key: TASK[key] for key in TASK if key != "generation_kwargs"}, **CHOICES},
    {
        **TASK,
        "output_type": "loglikelihood",
        "metric_list": [{"metric": "acc"}],
        "generation_kwargs": {},
    },
]
SUITE = {
    "suite": "s",
    "tasks": [
        {
            "task": "plus",
            "documents": [0, 3],
            "limit": 2,
            "weight": 1.0,
            "metric": None,
            "filter": "none",
            "cluster_by": "t",
        }
    ],
}
WORDS = [
    "q",
    "a",
    "n",
    "c",
    "t",
    "question",
    "{{q}}",
    "{{a}}{{''}}",
    "{{c}}",
    "{{c[n]}}",
    "{{typo}}",
    "{{q",
    "{% if n %}{{a}}{% endif %}",
    "{{a|int}}",
    "{{q ~ a}}",
    "{{c|length}}",
    "{{n / 0}}",
    "{{ q.x.y }}",
    "{{[a, q]}}",
    '["{{a}}", "{{q}}"]',
    "[{{n}}, 2]",
    "{% for x in c %}{{x}}{% endfor %}",
    "{{ self }}",
    "{{ range }}",
    "{% include 'x' %}",
    "{{ lipsum }}",
    "",
    " ",
    "0",
    "-1",
    "yes",
    "a b",
    "test",
    "train",
    "json",
    "../data/docs.jsonl",
    "../data",
    "*.jsonl",
    "~nobody/x",
    "mean",
    "exact_match",
    "acc",
    "regex",
    "(",
    "none",
    "last",
    "\0",
    "ü\u2028",
    "a" * 300,
]
SCALARS = [None, True, False, 0, 1, -1, 2, 10**30, 0.5, float("nan"), float("inf"), [], {}, [[]]]
BYTES = [
    "\t",
    "\n",
    ":",
    "- ",
    "{",
    "}",
    "[",
    "]",
    "#",
    "&a ",
    "*a",
    "!!python/object:os.system ",
    "!x ",
    "!function u.f",
    "'",
    '"',
    "|",
    ">",
    "%",
    "@",
    "\0",
    "\ud800",
    "ü",
    "<<: ",
    "? ",
]


def _paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    items = value.items() if isinstance(value, dict) else ()
    for key, inner in enumerate(value) if isinstance(value, list) else items:
        yield (*path, key)
        yield from _paths(inner, (*path, key))


def _damaged(value: Any, chance: random.Random, kept: tuple[str, ...] = ()) -> Any:
    """Return a value with one or two of its parts replaced, removed, renamed or wrapped."""
    value = deepcopy(value)
    for _ in range(chance.randint(1, 2)):
        path = chance.choice([path for path in _paths(value) if path[0] not in kept] or [()])
        if not path:
            return value
        holder = value
        for key in path[:-1]:
            holder = holder[key]
        new = chance.choice([*WORDS, *SCALARS, *WORDS])
        how = chance.choice(["replace", "replace", "replace", "remove", "rename", "wrap"])
        if how == "remove":
            del holder[path[-1]]
        elif how == "rename" and isinstance(holder, dict):
            holder[chance.choice(["doc_to_text", "test_split", "x", "metric", "0"])] = holder.pop(
                path[-1]
            )
        else:
            holder[path[-1]] = [holder[path[-1]]] if how == "wrap" else deepcopy(new)
    return value


def _edited(text: str, chance: random.Random) -> str:
    for _ in range(chance.randint(1, 3)):
        start = chance.randrange(len(text) + 1)
        new = chance.choice([*BYTES, *WORDS])
        text = text[:start] + new + text[start + chance.randrange(4) :]
    return text


def _project(folder: Path, chance: random.Random) -> list[Any]:
    """Write a project with one kind of damage; return its rows."""
    task, rows, suite = deepcopy(chance.choice(TASKS)), deepcopy(ROWS), deepcopy(SUITE)
    text = None
    kind = chance.choice(["task", "task", "template", "template", "text", "rows", "suite", "group"])
    if kind == "task":
        task = _damaged(task, chance, kept=("task",))
    elif kind == "template":
        keys = ["doc_to_text", "doc_to_target", "doc_to_choice", "description", "gen_prefix"]
        for key in chance.sample(keys, chance.randint(1, 2)):
            task[key] = chance.choice(WORDS)
    elif kind == "text":
        text = _edited(yaml.safe_dump(task, allow_unicode=True), chance)
    elif kind == "rows":
        rows = _damaged(rows, chance)
    elif kind == "suite":
        suite = _damaged(suite, chance, kept=("suite",))
    files = {"tasks/plus.yaml": text or yaml.safe_dump(task, allow_unicode=True)}
    if kind == "group":
        member = _damaged({"task": "plus", "doc_to_text": "{{q}}", **task}, chance, kept=("task",))
        files["tasks/g.yaml"] = yaml.safe_dump({"group": "both", "task": ["plus", member]})
        suite["tasks"][0]["task"] = "both"
    files["data/docs.jsonl"] = "".join(json.dumps(row) + "\n" for row in rows)
    files["suite.yaml"] = yaml.safe_dump(suite, allow_unicode=True)
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content.encode("utf-8", "surrogatepass"))
    return rows


def _is_indexed(folder: Path) -> bool:
    """Return whether the names are those of the folder, so that lm-eval's need not be read."""
    try:
        suite, task = (
            yaml.safe_load((folder / name).read_bytes())
            for name in ("suite.yaml", "tasks/plus.yaml")
        )
        names = [entry["task"] for entry in suite["tasks"]]
        return set(names) <= {"plus", "both"} and task.get("task") == "plus" and "group" not in task
    except Exception:
        return True  # what is no suite, or no task file, is refused before


def _check_documents(leaf: LeafTask, rows: list[Any]) -> None:
    """Check that every document, its prompt and its target are those of the rows."""
    assert len(leaf.task.eval_docs) == len(rows)
    for index in leaf.documents:
        document = leaf.document(index)
        assert {key: value for key, value in document.items() if value is not None} == {
            key: value for key, value in rows[index].items() if value is not None
        }
        for key in ("doc_to_text", "doc_to_target"):
            made = getattr(leaf.task, key)(document)
            given = getattr(leaf.task.config, key).given
            if isinstance(made, str):
                held = document[given] if given in document else apply_template(given, document)
                assert made == str(held)
            elif isinstance(made, int):
                assert leaf.task.config.doc_to_choice is not None
            else:
                assert isinstance(made, list)


def _run(folder: Path, seed: int) -> str:
    """Load one damaged project; return what became of it."""
    chance = random.Random(seed)
    rows = _project(folder, chance)
    if not _is_indexed(folder):
        return "skipped"
    try:
        leaves = load_tasks(suite_spec(load_suite(folder / "suite.yaml")))
    except (BadInputError, ConfigError) as error:
        message = str(error)
        assert any(name in message for name in (str(folder), "plus", "both", "Suite s")), message
        assert "Traceback" not in message
        return "refused"
    for leaf in leaves:
        _check_documents(leaf, rows)
    return "loaded"


def _fuzz(folder: Path, seeds: range) -> None:
    became = []
    for seed in seeds:
        place = folder / str(seed)
        try:
            became.append(_run(place, seed))
        except BaseException as error:
            error.add_note(f"seed {seed}, in {place}")
            raise
        shutil.rmtree(place)
    # Neither damage that changes nothing, nor damage that nothing survives.
    assert min(became.count("loaded"), became.count("refused")) > len(seeds) / 10


def test_damaged_suites(tmp_path: Path) -> None:
    _fuzz(tmp_path, range(200))


@pytest.mark.soak
def test_many_damaged_suites(tmp_path: Path) -> None:
    _fuzz(tmp_path, range(1000, 6000))
