"""The card of an exported student."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import ModelCard

from sweeper.analysis.winner import choose
from sweeper.reporting.markdown.model_card import model_card
from tests.support.example_study import completed, example_study


def card(tmp_path: Path, *, base: str | None, adapter: bool, repeated: str = "Same.") -> ModelCard:
    record = example_study()
    path = tmp_path / "README.md"
    outcome = completed(0.75).model_copy(
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
