"""However a study file is damaged, the answer is a study or a message about the file."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st

from sweeper.config.loading import load_study
from sweeper.foundation.errors import ConfigError
from tests.support.fuzzed_study import STUDY, SUITE, TEXT, as_yaml


def _paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if path:
        yield path
    keys = value if isinstance(value, dict) else range(len(value) if isinstance(value, list) else 0)
    for key in keys:
        yield from _paths(value[key], (*path, key))


PATHS = list(_paths(STUDY))
NAMES = sorted({str(path[-1]) for path in PATHS})
scalars = (
    st.none()
    | st.booleans()
    | st.integers(-3, 3)
    | st.sampled_from([10**400, -(10**20), 1e308, -0.0, float("nan"), float("inf")])
    | st.floats(-2, 2)
    | st.sampled_from([*NAMES, "", "builtin/", "builtin/x", "gkd", "tpe", ".json", "a" * 300])
    | st.text(max_size=8)
)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=6,
)
damage = st.tuples(
    st.sampled_from(PATHS), st.sampled_from(["replace", "remove", "rename", "wrap"]), values,
    st.sampled_from(NAMES) | st.text(max_size=4) | st.integers(0, 3) | st.booleans(),
)  # fmt: skip


def _apply(study: Any, path: tuple[Any, ...], how: str, value: Any, name: Any) -> None:
    holder = study
    for key in path[:-1]:
        try:
            holder = holder[key]
        except (LookupError, TypeError):
            return
    try:
        if how == "replace":
            holder[path[-1]] = value
        elif how == "remove":
            del holder[path[-1]]
        elif how == "rename" and isinstance(holder, dict):
            holder[name] = holder.pop(path[-1])
        elif how == "wrap":
            holder[path[-1]] = [holder[path[-1]]]
    except (LookupError, TypeError):
        return


def _check(content: bytes, overrides: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "study.yaml"
        file.write_bytes(content)
        (Path(folder) / "selection.yaml").write_text(SUITE, encoding="utf-8")
        try:
            study = load_study(file, overrides)
        except ConfigError as error:
            assert error.problems
            for problem in error.problems:
                assert problem.source.startswith((folder, "--set "))
                assert problem.message
                assert str(problem).startswith(problem.source)
        else:
            # Whatever is accepted can be written down, and read back as the same study.
            text = study.config.model_dump_json()
            assert type(study.config).model_validate_json(text, strict=False) == study.config


@given(st.lists(damage, min_size=1, max_size=3))
@settings(derandomize=True, max_examples=250, deadline=None)
def test_damaged_values(damages: list[Any]) -> None:
    study = copy.deepcopy(STUDY)
    for path, how, value, name in damages:
        _apply(study, path, how, value, name)
    _check(as_yaml(study).encode(), [])


@given(
    st.lists(
        st.tuples(
            st.integers(0, len(TEXT) - 1),
            st.integers(0, 12),
            st.sampled_from([*"{}[]:,-&*!|>'\"#?%@`\n\t ", "- ", ": ", "<<: ", "\0", "\ud800"])
            | st.text(max_size=3),
        ),
        min_size=1,
        max_size=4,
    )
)
@settings(derandomize=True, max_examples=200, deadline=None)
@example([(0, 0, "? [a]\n: b\n")])
@example([(0, 0, "? {a: b}\n: c\n")])
@example([(0, 0, "&a x: *a\n")])
def test_damaged_text(edits: list[tuple[int, int, str]]) -> None:
    text = TEXT
    for start, length, new in edits:
        text = text[:start] + new + text[start + length :]
    _check(text.encode("utf-8", "surrogatepass"), [])


@given(st.binary(max_size=60))
@settings(derandomize=True, max_examples=100, deadline=None)
def test_any_bytes(content: bytes) -> None:
    _check(content, [])


@given(
    st.sampled_from(PATHS), st.text(alphabet="ab.=[]{}: ", max_size=6),
    st.text(max_size=6) | values.map(lambda value: as_yaml(value).removesuffix("...\n").strip()),
)  # fmt: skip
@settings(derandomize=True, max_examples=150, deadline=None)
def test_damaged_overrides(path: tuple[Any, ...], more: str, value: str) -> None:
    _check(TEXT.encode(), [".".join(map(str, path)) + more + "=" + value])
