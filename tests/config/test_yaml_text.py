"""What is written as YAML is read again as it was."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from sweeper.config.yaml_file import parse
from sweeper.config.yaml_text import yaml_text

SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=50)
@given(st.dictionaries(st.text(), VALUES, min_size=1, max_size=3), st.integers(1, 5), st.text())
def test_it_is_read_again_as_it_was(values: dict[str, Any], flow: int, comment: str) -> None:
    printable = "".join(c for c in comment if c.isprintable())
    text = yaml_text(values, {(key,): printable for key in values}, flow=flow)
    assert parse(text, "text") == values


def test_it_looks_as_people_write_it() -> None:
    values = {
        "study": "s",
        "training": {"learning_rate": 1e-05, "max_steps": 5},
        "arms": {"gkd": {"search": {"beta": {"type": "categorical", "choices": [0.0, 1.0]}}}},
        "data": {"datasets": [{"name": "a: b", "kwargs": {"x": True}}]},
    }
    comments = {("training", "max_steps"): "few", ("arms",): "what is\ncompared"}
    assert yaml_text(values, comments) == (
        "study: s\n"
        "\ntraining:\n  learning_rate: 1.0e-5\n  max_steps: 5  # few\n"
        "\n# what is\n# compared\n"
        "arms:\n  gkd:\n    search:\n      beta: {type: categorical, choices: [0.0, 1.0]}\n"
        '\ndata:\n  datasets:\n    - name: "a: b"\n      kwargs: {x: true}\n'
    )
