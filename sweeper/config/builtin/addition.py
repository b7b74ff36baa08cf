"""Four-digit addition with the carries written out: a task that a tiny model learns on a CPU.

A question is ``1234+5678?``. Its answer works from the last digit to the first, each step being
digit + digit + carry = sum, and ends with the result after ``#``::

    4+8+0=12;3+7+1=11;2+6+1=9;1+5+0=6;#6912

Every problem is generated, so nothing has to be downloaded, and the reasoning chain gives
on-policy training something to correct: a student that slips in one step has to continue from its
own mistake, which no reference answer ever shows it.

``scripts/write_suites.py`` writes the test split that the evaluation task reads.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

DIGITS = 4
SMALLEST = 10 ** (DIGITS - 1)
LARGEST = 10**DIGITS - 1

BUCKETS = 16
"""Number of buckets, of about equal size, into which a hash sorts the pairs of numbers."""

MOST_PROBLEMS = 1_000_000
"""Largest count of a split; two buckets hold about five million unordered pairs."""


@dataclass(frozen=True)
class Split:
    """Source and default size of a split.

    Attributes:
        buckets: The hash buckets that belong to this split and to no other.
        seed: Seed of the split's own random numbers.
        count: Number of problems when the caller names none.
    """

    buckets: range
    seed: int
    count: int


SPLITS: dict[str, Split] = {
    "test": Split(buckets=range(0, 2), seed=101, count=600),
    "train": Split(buckets=range(2, 4), seed=102, count=1000),
    "teacher": Split(buckets=range(4, BUCKETS), seed=103, count=100_000),
}
"""Splits by name. Their buckets do not overlap, so no pair of numbers is in two of them."""


def bucket(a: int, b: int) -> int:
    """Return the bucket, in ``[0, BUCKETS)``, that the problem ``a+b`` belongs to.

    The order of the two numbers does not matter: ``b+a`` is the same exercise as ``a+b``, and
    having one in training and the other in the test would be a leak. The hash is a CRC-32 because
    it is the same in every process and on every machine, which ``hash`` of a string is not.
    """
    return zlib.crc32(f"{min(a, b)}+{max(a, b)}".encode()) % BUCKETS


def question(a: int, b: int) -> str:
    """Return the prompt for one problem, always ``2 * DIGITS + 2`` characters."""
    return f"{a}+{b}?"


def answer(a: int, b: int) -> str:
    """Return the written-out addition of two numbers with ``DIGITS`` digits each.

    Returns:
        One ``digit+digit+carry=sum;`` for every position from the last to the first, then ``#``
        and the result; 37 to 42 characters.
    """
    steps = []
    carry = 0
    for digit_a, digit_b in zip(reversed(str(a)), reversed(str(b)), strict=True):
        total = int(digit_a) + int(digit_b) + carry
        steps.append(f"{digit_a}+{digit_b}+{carry}={total};")
        carry = total // 10
    return f"{''.join(steps)}#{a + b}"


def problems(split: str, count: int | None = None) -> list[dict[str, str]]:
    """Return the first problems of a split, the same ones on every call.

    Args:
        split: One of ``SPLITS``.
        count: Number of problems; the split's own count when None. A smaller count gives a prefix
            of a larger one.

    Returns:
        Rows with the columns ``question`` and ``answer``. No problem occurs twice, in either
        order of its numbers, within a split or across splits.

    Raises:
        ValueError: If the split is unknown or ``count`` is not in ``[0, MOST_PROBLEMS]``.
    """
    if split not in SPLITS:
        raise ValueError(f"`split` must be one of {', '.join(sorted(SPLITS))}, but got {split!r}.")
    if count is None:
        count = SPLITS[split].count
    if not 0 <= count <= MOST_PROBLEMS:
        raise ValueError(f"`0 <= count <= {MOST_PROBLEMS}` must hold, but got {count}.")
    pairs = _pairs(SPLITS[split])
    return [
        {"question": question(a, b), "answer": answer(a, b)}
        for a, b in (next(pairs) for _ in range(count))
    ]


def _pairs(split: Split) -> Iterator[tuple[int, int]]:
    """Yield the split's pairs of numbers for ever, none of them twice."""
    random = Random(split.seed)
    seen: set[tuple[int, int]] = set()
    while True:
        # `random()` is the one method whose sequence Python promises to keep between versions.
        a, b = (SMALLEST + int(random.random() * (LARGEST - SMALLEST + 1)) for _ in range(2))
        unordered = (min(a, b), max(a, b))
        if bucket(a, b) in split.buckets and unordered not in seen:
            seen.add(unordered)
            yield a, b
