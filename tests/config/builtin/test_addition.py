"""The addition task: right answers, separate splits, and a committed file that is current."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import pytest

from scripts.write_suites import write_addition
from sweeper.config import builtin
from sweeper.config.builtin import addition
from tests.support.tiny_studies import ROOT


def operands(row: dict[str, str]) -> tuple[int, int]:
    found = re.fullmatch(r"(\d{4})\+(\d{4})\?", row["question"])
    assert found is not None
    return int(found[1]), int(found[2])


@pytest.mark.parametrize("split", addition.SPLITS)
def test_every_carry_and_result_is_right(split: str) -> None:
    for row in addition.problems(split, 2000):
        a, b = operands(row)
        steps, result = row["answer"].split("#")
        assert int(result) == a + b
        carry = 0
        for position, step in enumerate(steps.removesuffix(";").split(";")):
            left, total = step.split("=")
            digit_a, digit_b, carried = map(int, left.split("+"))
            assert digit_a == a // 10**position % 10
            assert digit_b == b // 10**position % 10
            assert carried == carry
            assert int(total) == digit_a + digit_b + carried
            carry = int(total) // 10
        assert position == 3


def test_no_problem_occurs_twice_within_or_across_splits() -> None:
    pairs = [
        frozenset(operands(row)) for split in addition.SPLITS for row in addition.problems(split)
    ]
    assert len(set(pairs)) == len(pairs)


def test_splits_own_different_buckets() -> None:
    for one, other in itertools.combinations(addition.SPLITS.values(), 2):
        assert not set(one.buckets) & set(other.buckets)


def test_a_smaller_count_is_a_prefix_of_a_larger_one() -> None:
    assert addition.problems("train", 50) == addition.problems("train", 100)[:50]
    assert addition.problems("train", 0) == []


def test_the_committed_test_split_is_what_the_code_generates(tmp_path: Path) -> None:
    ((path, count),) = write_addition(tmp_path).items()
    assert count >= 600
    committed = ROOT / "eval_suites" / path.relative_to(tmp_path)
    assert committed.read_bytes() == path.read_bytes()


def test_errors_state_the_rule_and_the_value() -> None:
    with pytest.raises(ValueError, match="must be one of teacher, test, train, but got 'dev'"):
        addition.problems("dev")
    with pytest.raises(ValueError, match="but got -1"):
        addition.problems("train", -1)
    with pytest.raises(
        ValueError, match="must be one of addition, facts, but got 'multiplication'"
    ):
        builtin.dataset("multiplication", "train")


def test_the_data_set_is_found_by_name() -> None:
    assert builtin.dataset("addition", "train") == addition.problems("train")
