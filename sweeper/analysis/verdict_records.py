"""Records of the verdict: intervals, arms and pairs."""

from __future__ import annotations

from sweeper.analysis.stats.significance import Conclusion
from sweeper.config.confirm import CostMeasure
from sweeper.config.settings import Method
from sweeper.records import Record
from sweeper.records.base import left_out_if_alone


class Interval(Record):
    """Mean over seeds and documents, with its 95 % interval."""

    mean: float
    low: float
    high: float
    stderr: float
    seeds: int
    documents: int


class ArmVerdict(Record):
    """Result of an arm's winner on the test suite."""

    arm: str
    method: Method
    trial: int
    at: CostMeasure
    max_steps: int
    test: Interval
    selection: float
    """Mean over the new seeds on the selection suite."""
    inflation: float
    """Selection bias: the search's score of the trial minus ``selection``."""
    gap_closed: float | None
    """Share of the gap from the starting student to the teacher."""
    gap_interval: tuple[float, float] | None = None
    """95 % interval by Fieller's method; None where teacher and starting student are not shown to
    differ."""
    device_seconds: float
    trained_tokens: float
    sharing: int = left_out_if_alone()
    """As in ``ConfirmedWinner``."""


class PairVerdict(Record):
    """Comparison of two arms."""

    arm: str
    against: str
    at: CostMeasure
    difference: float
    """Difference in the suite's units: negative is better where lower is better."""
    interval: tuple[float, float]
    """95 % interval."""
    stderr: float
    seeds: int
    documents: int
    p: float
    p_adjusted: float
    """``p`` after Holm's procedure over the primary comparisons at the same measure of cost."""
    test: str
    p_equivalence: float | None
    """p of the two one-sided tests that the difference is within the margin."""
    effect: float | None
    """Difference in units of the documents' standard deviation."""
    comparisons: int
    """Number of primary comparisons at this measure of cost."""
    conclusion: Conclusion


class Verdict(Record):
    """Result of a study on its test suite."""

    suite: str
    higher_is_better: bool
    margin: float | None
    arms: tuple[ArmVerdict, ...]
    pairs: tuple[PairVerdict, ...]
    teacher: Interval | None
    starting_student: Interval | None
    looks: int
    """Number of times winners were declared; 1 is the first look at the test suite."""
    missing: tuple[str, ...]
    """Winners that could not be retrained or scored, in words."""
    declared: bool = False
    """True if the study file declares the comparisons."""
    revised: bool = False
    """True if they changed after winners had been declared."""

    @property
    def claimed(self) -> tuple[str, ...]:
        """Names of the arms in the primary comparisons."""
        pairs = (name for pair in self.pairs for name in (pair.arm, pair.against))
        return tuple(dict.fromkeys(pairs))

    def at(self, measure: str) -> list[ArmVerdict]:
        """Return the arms to compare at ``measure``; an arm without a training for it has its own.

        At equal steps these are all arms, else those in the primary comparisons.
        """
        own = {arm.arm: arm for arm in self.arms if arm.at == "steps"}
        matched = own | {arm.arm: arm for arm in self.arms if arm.at == measure}
        claimed = {name for p in self.pairs if p.at == measure for name in (p.arm, p.against)}
        return [arm for arm in matched.values() if measure == "steps" or arm.arm in claimed]
