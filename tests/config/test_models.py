"""What a study may say of its models."""

from __future__ import annotations

from typing import Any

import jsonschema
import pytest

from sweeper.config.loading import schema
from sweeper.config.study import ModelConfig
from tests.conftest import adder_study


@pytest.mark.parametrize(
    ("written", "meant"),
    [(None, None), (2, 2), (10, 10), ([0], (0,)), ([0, 1, 4, 29], (0, 1, 4, 29)), ([2, 0], (0, 2))],
)
def test_the_layers_to_keep_are_a_number_or_a_list_in_any_order(written: Any, meant: Any) -> None:
    model = ModelConfig(model="m", keep_layers=written)
    assert model.keep_layers == meant
    # As records hold it, and as a job reads it again.
    assert ModelConfig.model_validate_json(model.model_dump_json()) == model
    assert ModelConfig.model_validate(model.model_dump()) == model


@pytest.mark.parametrize(
    ("keep", "right"),
    [
        (2, True),
        ([0, 3], True),
        (None, True),
        (1, False),
        ([], False),
        ([0, 0], False),
        ([-1], False),
        ("half", False),
    ],
)
def test_the_schema_knows_which_layers_can_be_kept(keep: Any, right: bool) -> None:
    study = adder_study(student={"model": "builtin/adder-student", "keep_layers": keep})
    assert jsonschema.Draft202012Validator(schema()).is_valid(study) is right
