"""Several studies side by side."""

from __future__ import annotations

import io
import json
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from sweeper.analysis.across_studies import StudiesComparison, compare_studies
from sweeper.records.study_record import StudyRecord
from sweeper.reporting.console import show
from sweeper.reporting.tables.studies import StudiesView, studies_json
from tests.support.confirmed_study import confirmed_study
from tests.support.example_study import example_study

STEPS = {"compare_at": ["steps"]}


def small(seed: int, **changes: Any) -> StudyRecord:
    config = {**STEPS, **changes.pop("config", {})}
    return confirmed_study(seed, name=f"adder-{seed}", trials=6, config=config, **changes)


@pytest.fixture(scope="module")
def seeds() -> StudiesComparison:
    return compare_studies([small(seed) for seed in (1, 2, 3)])


def printed(found: StudiesComparison, width: int) -> str:
    file = io.StringIO()
    show(StudiesView(found), Console(file=file, width=width))
    return file.getvalue()


def test_studies_that_differ_in_nothing_but_their_seed_are_known(seeds: StudiesComparison) -> None:
    assert seeds.relation == "seeds"
    assert [setting.key for setting in seeds.different] == ["study", "seed"]
    assert {"teacher", "data", "arms", "contents"} <= set(seeds.same)


def test_their_verdicts_are_counted_and_averaged(seeds: StudiesComparison) -> None:
    pairs = [pair for study in seeds.studies for pair in study.pairs if pair.against == "sft"]
    [found] = [one for one in seeds.replications if one.against == "sft"]
    differences = [pair.difference for pair in pairs]
    assert found.differences == pytest.approx(differences)
    assert found.mean == pytest.approx(np.mean(differences))
    assert found.deviation == pytest.approx(np.std(differences, ddof=1))
    assert sum(found.conclusions.values()) == 3
    assert set(found.conclusions) == {pair.conclusion for pair in pairs}
    assert found.interval[0] < found.mean < found.interval[1] and found.same_documents


def test_on_other_documents_studies_are_averaged_and_arms_are_not_paired() -> None:
    found = compare_studies([small(1, seeds=1), small(2, seeds=1, documents_hash="07e4" * 16)])
    assert found.across == ()
    [refused] = found.refused
    assert refused.startswith("adder-2 and adder-1: their test suites do not hold the same")
    assert not any(one.same_documents for one in found.replications)
    assert "paired by document" not in printed(found, 80)


def test_records_that_do_not_say_which_documents_are_not_paired() -> None:
    unknown = [small(seed, seeds=1, documents_hash="") for seed in (1, 2)]
    assert compare_studies(unknown).refused


def test_a_study_without_a_verdict_is_shown_beside_one_with() -> None:
    found = compare_studies([small(1, seeds=1), example_study(6)])
    assert found.relation == "different" and found.replications == ()
    assert found.refused == ("adder and adder-1: no winner of adder was scored on a test suite.",)
    assert found.studies[1].test is None and found.studies[1].best_arm is not None
    assert "adder: nothing was confirmed" in printed(found, 80)


def test_other_settings_are_named_and_arms_compared_on_the_same_documents() -> None:
    teacher = {"model": "builtin/adder-teacher", "dtype": "bfloat16"}
    records = [small(1), small(1, shift=0.1, config={"teacher": teacher})]
    records[1] = records[1].model_copy(update={"study": "other"})
    found = compare_studies(records)
    assert found.relation == "different"
    values = {setting.key: setting.values for setting in found.different}
    assert values["teacher.dtype"] == ("float32", "bfloat16")
    assert {pair.arm for pair in found.across} == {arm.name for arm in records[0].arms}
    means = [study.test for study in found.studies]
    best = [pair for pair in found.across if pair.arm == found.studies[1].best_arm]
    assert best and means[0] is not None and means[1] is not None
    if best[0].against_arm == found.studies[0].best_arm:
        assert best[0].difference == pytest.approx(means[1].mean - means[0].mean)
    assert best[0].interval[0] < best[0].difference < best[0].interval[1]


def scored_in(record: StudyRecord, dtype: str | None) -> StudyRecord:
    """The record with that precision in every score."""
    text = record.model_dump_json().replace('"dtype":null', f'"dtype":{json.dumps(dtype)}')
    return StudyRecord.model_validate_json(text)


UNSURE: dict[str, dict[str, Any]] = {
    "autocast": {"training": {"bf16": True}},
    "16 bits": {"student": {"model": "builtin/adder-student", "dtype": "bfloat16"}},
}


@pytest.mark.parametrize(
    ("first", "second", "compares"),
    [
        (("float32", {}), ("float32", {}), True),
        (("bfloat16", {}), ("bfloat16", {}), True),
        (("float32", {}), ("bfloat16", {}), False),
        # Earlier studies declared none: what was float32 for certain compares.
        ((None, {}), ("float32", {}), True),
        ((None, {}), ("bfloat16", {}), False),
        *(((None, changes), ("float32", {}), False) for changes in UNSURE.values()),
        *(((None, changes), ("bfloat16", {}), False) for changes in UNSURE.values()),
        *(((None, changes), (None, changes), True) for changes in UNSURE.values()),
    ],
)
def test_scores_in_two_precisions_do_not_compare(
    first: tuple[str | None, dict[str, Any]],
    second: tuple[str | None, dict[str, Any]],
    compares: bool,
) -> None:
    records = [
        scored_in(small(seed, seeds=1, config=config), dtype)
        for seed, (dtype, config) in enumerate((first, second), 1)
    ]
    found = compare_studies(records)
    assert bool(found.across) is compares
    assert bool(found.refused) is not compares
    if not compares:
        assert found.relation == "different" and found.replications == ()
        assert "they were scored in" in found.refused[0]
        assert "evaluation.dtype" in found.refused[0]


@pytest.mark.parametrize("second", ["vllm", "transformers"])
def test_scores_of_two_engines_do_not_compare(second: str) -> None:
    engines = ("vllm", second)
    records = [
        small(seed, seeds=1, config={"evaluation": {"engine": engine}})
        for seed, engine in enumerate(engines, 1)
    ]
    found = compare_studies(records)
    assert bool(found.across) is (second == "vllm")
    if second == "transformers":
        [reason] = found.refused
        assert "they were scored by transformers and by vllm" in reason
        assert "with the other's evaluation.engine" in reason
        assert "evaluation.engine" in [setting.key for setting in found.different]


@pytest.mark.parametrize("width", [80, 120])
def test_the_table_fits_and_says_what_counts(seeds: StudiesComparison, width: int) -> None:
    text = printed(seeds, width)
    assert max(map(len, text.splitlines())) <= width
    assert text.startswith("3 studies that differ only in their seed.")
    for study in seeds.studies:
        assert study.test is not None
        assert f"{study.test.mean:.3f} [{study.test.low:.3f}, {study.test.high:.3f}]" in text
        for pair in study.pairs:
            rows = [
                line
                for line in text.splitlines()
                if f"{pair.arm} − {pair.against}" in line and f"{pair.difference:+.3f} [" in line
            ]
            assert any(pair.conclusion in row for row in rows)
    for one in seeds.replications:
        for conclusion, count in one.conclusions.items():
            assert f"{count} {conclusion}" in text


def test_the_json_is_plain(seeds: StudiesComparison) -> None:
    found = json.loads(json.dumps(studies_json(seeds), allow_nan=False))
    assert [study["study"] for study in found["studies"]] == ["adder-1", "adder-2", "adder-3"]
    assert {"headline", "same", "different", "replications", "across", "refused"} <= set(found)
