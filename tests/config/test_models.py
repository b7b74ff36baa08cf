"""What a study may say of its models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jsonschema
import pytest

from sweeper.config.loading import load_study, schema
from sweeper.config.models import ModelConfig, StudentConfig
from tests.support.tiny_studies import adder_study


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


def test_a_built_in_model_of_a_package_that_may_be_missing_is_known(
    write_study: Any, tmp_path: Path
) -> None:
    model = "builtin/smollm2-135m-instruct"
    path = write_study(teacher={"model": model}, student={"model": model, "keep_layers": 10})
    assert load_study(path).config.student == StudentConfig(model=model, keep_layers=10)


@pytest.mark.parametrize(
    ("written", "dtype", "quantization"),
    [
        ({}, "auto", None),
        ({"quantization": "int4"}, "auto", "int4"),
        ({"dtype": "bfloat16", "quantization": "int8"}, "bfloat16", "int8"),
        ({"dtype": "int8"}, "auto", "int8"),
        ({"torch_dtype": "bfloat16"}, "bfloat16", None),
        ({"init_kwargs": {"torch_dtype": "int8", "device_map": "auto"}}, "auto", "int8"),
        ({"dtype": "bfloat16", "init_kwargs": {"torch_dtype": "int4"}}, "bfloat16", "int4"),
        ({"dtype": "bfloat16", "init_kwargs": {"dtype": "bfloat16"}}, "bfloat16", None),
    ],
)
def test_types_and_quantization_by_any_of_their_names(
    written: dict[str, Any], dtype: str, quantization: str | None
) -> None:
    model = ModelConfig(model="m", **written)
    assert (model.dtype, model.quantization) == (dtype, quantization)
    assert model.init_kwargs in ({}, {"device_map": "auto"})
    assert ModelConfig.model_validate(model.model_dump()) == model
