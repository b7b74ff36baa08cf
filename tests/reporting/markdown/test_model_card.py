"""The card of an exported student."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard

from sweeper.analysis.server_costs import Share, charge
from sweeper.analysis.winner import choose
from sweeper.config.base import ScoringDtype
from sweeper.reporting.markdown.model_card import model_card
from tests.support.example_study import completed, example_study


def card(
    tmp_path: Path,
    *,
    base: str | None,
    adapter: bool,
    repeated: str = "Same.",
    dtype: ScoringDtype | None = None,
    **student: Any,
) -> ModelCard:
    record = example_study()
    config = {**record.config, "student": {**record.config["student"], **student}}
    record = record.model_copy(update={"config": config})
    path = tmp_path / "README.md"
    outcome = completed(0.75)
    assert outcome.scores is not None
    scores = outcome.scores.model_copy(update={"dtype": dtype})
    outcome = outcome.model_copy(update={"scores": scores}).model_copy(
        update={"test_scores": completed(0.7).scores, "versions": {"torch": "2.9"}}
    )
    text = model_card(
        record, choose(record), outcome, base=base, teacher="a/teacher", adapter=adapter,
        repeated=repeated,
    )  # fmt: skip
    path.write_text(text, encoding="utf-8")
    return ModelCard.load(path)


def test_the_hub_reads_its_metadata(tmp_path: Path) -> None:
    found = card(tmp_path, base="a/student", adapter=True).data
    assert (found.base_model, found.library_name) == ("a/student", "peft")
    assert found.pipeline_tag == "text-generation"
    assert "gkd" in found.tags
    assert [result.metric_value for result in found.eval_results] == [0.75, 0.7]
    assert {result.metric_type for result in found.eval_results} == {"exact_match"}


def test_it_names_what_the_training_paid_for_servers(tmp_path: Path) -> None:
    record = example_study()
    winner = choose(record)
    assert winner.trial.outcome is not None
    shared = charge(winner.trial.outcome, {"teacher": Share(30.0, 2.0)})
    winner = winner.model_copy(
        update={"trial": winner.trial.model_copy(update={"outcome": shared})}
    )
    text = model_card(
        record, winner, completed(0.75), base=None, teacher="a/teacher", adapter=False, repeated=""
    )
    assert "| servers | teacher's server 32 device-seconds, its share in the study |" in text


def test_it_says_how_good_the_student_is_and_how_it_was_made(tmp_path: Path) -> None:
    found = card(tmp_path, base=None, adapter=False, repeated="Trained | again: <b>0.75</b>.")
    assert found.data.base_model is None
    text = found.text
    assert "0.750 (0.719 to 0.781)" in text and "0.938 (0.916 to 0.960)" in text
    assert "`builtin/adder-student`, distilled (gkd) from `a/teacher`" in text
    assert "&lt;b>0.75" in text, "foreign text shows as it is written"
    assert "AutoPeftModel" not in text
    assert "learning_rate: " in text and "torch 2.9" in text and "5a1e" in text
    assert "96k / 0" in text
    assert "that suite is read once" in text


@pytest.mark.parametrize(
    ("adapter", "student", "call"),
    [
        (False, {}, 'AutoModelForCausalLM.from_pretrained("PATH", dtype="bfloat16")'),
        (True, {}, 'AutoPeftModelForCausalLM.from_pretrained("PATH", dtype="bfloat16")'),
        (
            False,
            {"init_kwargs": {"attn_implementation": "eager"}, "trust_remote_code": True},
            'dtype="bfloat16", attn_implementation="eager", trust_remote_code=True)',
        ),
        (
            True,
            {"init_kwargs": {"quantization_config": {"load_in_8bit": True}}},
            "quantization_config={'load_in_8bit': True}",
        ),
        (True, {"quantization": "int8"}, "quantized = BitsAndBytesConfig(load_in_8bit=True)"),
        (True, {"quantization": "int4"}, 'bnb_4bit_compute_dtype="bfloat16"'),
    ],
)
def test_it_says_how_to_load_the_student_as_it_was_scored(
    adapter: bool, student: dict[str, Any], call: str, tmp_path: Path
) -> None:
    text = card(tmp_path, base=None, adapter=adapter, dtype="bfloat16", **student).text
    assert call in text
    code = text.partition("```python\n")[2].partition("```")[0]
    compile(code, "card", "exec")
    assert ("quantization_config=quantized" in code) == ("quantization" in student)
    assert ("model.generation_config = " in code) == adapter
    arguments = "pretrained=BASE,peft=PATH" if adapter else "pretrained=PATH"
    assert f"{arguments},dtype=bfloat16,softmax_dtype=float32" in text
