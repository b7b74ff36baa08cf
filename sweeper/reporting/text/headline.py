"""The headline of a report: the verdict where there is one, else what the search found."""

from __future__ import annotations

from sweeper.analysis.comparison import Comparison
from sweeper.analysis.stats.significance import Conclusion
from sweeper.analysis.verdict_records import Verdict
from sweeper.config.settings import OFFLINE_METHODS
from sweeper.reporting.text import formatting
from sweeper.reporting.text.search import ended
from sweeper.reporting.text.verdict import sentence

CLEAR = 2.0
"""Standard errors from which a difference is called clear: about 95 % confidence, before the
selection bias of the best of several trials."""

_CONCLUSIONS: dict[Conclusion, str] = {
    "better": "{ours} is better than {theirs}",
    "equivalent": "{ours} is equivalent to {theirs}",
    "worse": "{ours} is worse than {theirs}",
    "inconclusive": "{ours} against {theirs} is inconclusive",
}
"""Clauses for all offline arms with the same conclusion, in the order of the headline."""


def verdict_headline(verdict: Verdict) -> str:
    """Return the primary comparisons at equal steps in a sentence or two."""
    pairs = [pair for pair in verdict.pairs if pair.at == "steps"]
    if not pairs:
        return "There is nothing to compare on the test suite."
    if len({pair.arm for pair in pairs}) > 1:
        return " ".join(sentence(pair, verdict.margin) for pair in pairs)
    if len(pairs) == 1:
        return f"On the test suite, {sentence(pairs[0], verdict.margin)}"
    parts = []
    for conclusion, text in _CONCLUSIONS.items():
        if against := [pair.against for pair in pairs if pair.conclusion == conclusion]:
            parts.append(text.format(ours=pairs[0].arm, theirs=formatting.listed(against)))
    # The least clear pair limits what the others can claim.
    closest = sentence(max(pairs, key=lambda pair: pair.p_adjusted), verdict.margin)
    return f"On the test suite, {'; '.join(parts)}. Closest comparison: {closest}"


def search_headline(comparison: Comparison) -> str:
    """Return the arm with the best selection score, and how GKD compares with the offline arms."""
    sentences = [_leader(comparison)]
    if comparison.leaders:
        sentences += [_against_offline(comparison), _price(comparison)]
    return " ".join(filter(None, sentences))


def _leader(comparison: Comparison) -> str:
    if not comparison.leaders:
        over = sum(map(ended, comparison.arms))
        return "No trial completed: there is nothing to compare." if over else "No score yet."
    digits = formatting.comparison_digits(comparison)
    where = f"on the selection suite {comparison.suite}"
    best = comparison.arm(comparison.leaders[0])
    shown = formatting.score(best.best_score, digits)
    if len(comparison.leaders) > 1:
        names = formatting.listed(comparison.leaders)
        share = "both have" if len(comparison.leaders) == 2 else "all have"
        return f"{names} {share} the best score {where}: {shown}."
    trial = f"trial {best.best.number}" if best.best else ""
    return f"{best.name} has the best score {where}: {shown} ({trial})."


def _against_offline(comparison: Comparison) -> str:
    if len({arm.method in OFFLINE_METHODS for arm in comparison.arms}) == 1:
        return ""  # All arms are of one kind.
    if comparison.best_gkd is None:
        return "No GKD arm has a score."
    if comparison.best_offline is None:
        return "No offline arm has a score to compare with."
    digits = formatting.comparison_digits(comparison)
    gkd, offline = comparison.arm(comparison.best_gkd), comparison.arm(comparison.best_offline)
    difference = gkd.difference
    assert difference is not None  # both arms have a score
    best = f"the best offline arm ({offline.name}, {formatting.score(offline.best_score, digits)})"
    subject = "GKD" if gkd.name in ("gkd", *comparison.leaders) else f"GKD ({gkd.name})"
    if difference.lead == 0:
        return f"{subject} is level with {best}."
    verb = "leads" if difference.lead > 0 else "is behind"
    lead = f"{subject} {verb} {best} by {abs(difference.value):.{digits}f}"
    if difference.standard_errors is None:
        return f"{lead}."
    errors = abs(difference.standard_errors)
    unclear = ", which is not a clear difference" if errors < CLEAR else ""
    return f"{lead}, {errors:.1f} standard errors of the difference{unclear}."


def _price(comparison: Comparison) -> str:
    """Return the device-seconds of the best GKD trial next to those of the best offline trial."""
    if comparison.best_gkd is None or comparison.best_offline is None:
        return ""
    arms = [comparison.arm(name) for name in (comparison.best_gkd, comparison.best_offline)]
    if any(arm.best and arm.best.outcome and arm.best.outcome.sharing > 1 for arm in arms):
        return ""  # Their seconds depend on what ran next to them.
    costs = [cost.device_seconds for cost in map(formatting.best_cost, arms) if cost]
    if len(costs) < 2 or not all(costs):
        return ""
    ours, theirs = costs
    ratio = f"{ours / theirs:.2g}"
    times = "about as many as" if ratio == "1" else f"{ratio} times as many as"
    return (
        f"The best GKD trial took {formatting.seconds(ours)} device-seconds, {times} the best"
        f" offline trial ({formatting.seconds(theirs)})."
    )
