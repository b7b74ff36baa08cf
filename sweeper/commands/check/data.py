"""Findings on data and suites: rows, columns, leaks, and lengths in tokens.

A leak is a prompt or a document of a suite that is also training data, or is in the other suite.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from sweeper.analysis.findings import Finding
from sweeper.config.arms import ArmConfig
from sweeper.config.loading import LoadedSuite
from sweeper.config.settings import MethodSettings
from sweeper.records import DataCheck, Lengths, TokenLengths

MOST_LONGER = 0.05
"""Share of references that may be longer than what is sampled, without a warning."""
_NAMED = 6
"""Names of columns or files in one list."""
_NO_PLACE = "Use a model whose chat template has a place for it, unless you can do without."
_ROUND = 16
"""Suggested limits are multiples of this number."""


def data_findings(
    data_check: DataCheck,
    selection: LoadedSuite,
    test: LoadedSuite | None,
    arms: Mapping[str, ArmConfig],
    answer_tokens: int | None,
) -> list[Finding]:
    """Report rows, suites and lengths, as far as they could be read.

    ``answer_tokens`` is the limit of the teacher's own answers; None if no arm trains on them.
    """
    findings = [*_rows(data_check), *_suites(data_check, selection, test)]
    if data_check.data is not None and data_check.data.lengths is not None:
        findings += length_findings(data_check.data.lengths, arms, answer_tokens)
    findings += [
        Finding(
            state="warning",
            what="messages",
            detail=detail,
            advice=_NO_PLACE if " leaves out " in detail else "",
        )
        for detail in data_check.left_out
    ]
    advice = "Shorten it, unless you know that the model reads as far."
    return findings + [
        Finding(state="warning", what="positions", detail=detail, advice=advice)
        for detail in data_check.overlong
    ]


def length_findings(
    lengths: TokenLengths, arms: Mapping[str, ArmConfig], answer_tokens: int | None
) -> list[Finding]:
    """Report which prompts, references, rollouts and teacher's answers are cut."""
    return [
        *_max_length(lengths),
        *_own_max_length(arms, lengths),
        *_rollouts(arms, answer_tokens, lengths),
    ]


def _rows(data_check: DataCheck) -> Iterator[Finding]:
    rows = data_check.rows
    if rows is None:
        return
    columns = " and ".join(rows.columns)
    answers = {0: "prompts alone", rows.rows: "all with a reference"}.get(
        rows.references, f"{rows.references:,} with a reference"
    )
    unread = f", not from {_listed(rows.unread)}" if rows.unread else ""
    yield Finding(
        state="ok",
        what="training data",
        detail=f"{rows.rows:,} rows of {rows.source}, {answers}; read from {columns}{unread}",
    )
    if rows.files:
        others = f"; not from {_listed(rows.other_files)}" if rows.other_files else ""
        detail = f"rows are read from {_listed(rows.files)}{others}"
        yield Finding(state="ok", what="data files", detail=detail)
    for detail in rows.unused:
        yield Finding(state="warning", what="columns", detail=detail)
    if rows.repeated:
        yield Finding(
            state="warning",
            what="repeated prompts",
            detail=f"{rows.repeated:,} of {rows.rows:,} prompts repeat others of the training data,"
            " which gives them more weight",
            advice="Remove them, unless their answers differ.",
        )


def _listed(names: Sequence[str]) -> str:
    rest = len(names) - _NAMED
    shown = [name or "a column without a name" for name in names[:_NAMED]]
    return ", ".join(shown) + (f" and {rest:,} more" if rest > 0 else "")


def _suites(
    data_check: DataCheck, selection: LoadedSuite, test: LoadedSuite | None
) -> Iterator[Finding]:
    named: tuple[tuple[str, LoadedSuite | None, int | None], ...] = (
        ("selection suite", selection, data_check.selection_documents),
        ("test suite", test, data_check.test_documents),
    )
    scored_by = data_check.scored_by
    for what, suite, documents in named:
        if suite is not None and documents is not None:
            tasks = ", ".join(task.task for task in suite.config.tasks)
            detail = f"{suite.config.suite}: {documents:,} documents of {tasks}"
            if told := scored_by.get(what.partition(" ")[0]):
                detail += f"; scored: {', '.join(told)}"
            yield Finding(state="ok", what=what, detail=detail)
    if data_check.overlap_free:
        suites = [] if test is None else [selection, test]
        places = ", selection and test suite" if suites else " and suites"
        detail = f"training data{places} share no prompt"
        if any(not task.weight for suite in suites for task in suite.config.tasks):
            detail += "; tasks of weight 0 may be in both suites"
        yield Finding(state="ok", what="overlap", detail=detail)


def _max_length(lengths: TokenLengths) -> Iterator[Finding]:
    limit, prompts, whole = lengths.max_length, lengths.prompts, lengths.sequences
    spans = f"prompts have {_span(prompts)} tokens"
    if lengths.references is not None:
        spans += f", with their references {_span(whole)}"
    if not lengths.dropped and not lengths.cut:
        yield Finding(
            state="ok", what="max_length", detail=f"{spans}; all fit into max_length ({limit:,})"
        )
        return
    parts = []
    if lengths.dropped:
        parts.append(f"{lengths.dropped:,} of {prompts.count:,} prompts are too long and left out")
    if lengths.cut and lengths.references is not None:
        count = lengths.references.count
        parts.append(f"{lengths.cut:,} of {count:,} references are cut, and lose their end")
    wanted = _rounded(max(whole.percentiles[-1], prompts.percentiles[-1] + _ROUND))
    yield Finding(
        state="warning",
        what="max_length",
        detail=f"training.max_length is {limit:,}: {'; '.join(parts)} ({spans})",
        advice=f"Write training: {{max_length: {wanted}}}, or leave out what is longer.",
    )


def _own_max_length(arms: Mapping[str, ArmConfig], lengths: TokenLengths) -> Iterator[Finding]:
    for name, arm in arms.items():
        limits = _limits(arm, "max_length")
        share = lengths.sequences.longer_than(min(limits)) if limits else 0.0
        if share > 0:
            yield Finding(
                state="warning",
                what="max_length",
                detail=f"{name}: {_share(share)} of the prompts with their references are longer"
                f" than {min(limits):,} tokens, and cut or left out",
                advice=f"Write max_length: {_rounded(lengths.sequences.percentiles[-1])}.",
            )


def _limits(arm: ArmConfig, key: str) -> tuple[int, ...]:
    """Return the lowest and the highest value of a limit in an arm, or the only one."""
    if (space := arm.search.get(key)) is not None:
        ends = [int(end) for end in space.ends().values() if isinstance(end, int | float)]
        return tuple(sorted({min(ends), max(ends)}))
    return (int(arm.settings[key]),) if key in arm.settings else ()


def _rollouts(
    arms: Mapping[str, ArmConfig], answer_tokens: int | None, lengths: TokenLengths
) -> Iterator[Finding]:
    """Yield the shares of references that are longer than sampled answers may be."""
    if lengths.references is None:
        return
    by_limits: dict[tuple[int, ...], list[str]] = {}
    for name, arm in arms.items():
        if limits := _rollout_limits(arm):
            by_limits.setdefault(limits, []).append(name)
    for limits, names in by_limits.items():
        key, who = "max_new_tokens", f"{', '.join(names)}: "
        yield _longer(key, who, key, limits, lengths.references)
    if answer_tokens is not None:
        key = "teacher_outputs.max_new_tokens"
        yield _longer("teacher outputs", "", key, (answer_tokens,), lengths.references)


def _rollout_limits(arm: ArmConfig) -> tuple[int, ...]:
    """Return the lowest and the highest ``max_new_tokens`` of an arm that samples."""
    if arm.method != "gkd" or arm.settings.get("lmbda") == 0:
        return ()
    return _limits(arm, "max_new_tokens") or (MethodSettings().max_new_tokens,)


def _longer(what: str, who: str, key: str, limits: tuple[int, ...], lengths: Lengths) -> Finding:
    """Compare the references with limits in ascending order."""
    shares = [lengths.longer_than(limit) for limit in limits]
    verb = "are" if shares[0] else "is"
    detail = f"{who}{_share(shares[0])} of the references {verb} longer than {limits[0]:,} tokens"
    for share, limit in zip(shares[1:], limits[1:], strict=True):
        detail += f", {_share(share)} longer than {limit:,}"
    if shares[0] <= MOST_LONGER:
        return Finding(state="ok", what=what, detail=detail)
    wanted = _rounded(lengths.percentiles[95])
    low = " as its lowest value" if len(limits) > 1 else ""
    return Finding(
        state="warning",
        what=what,
        detail=f"{detail}; answers that are cut do not teach a student to stop",
        advice=f"95 % of them fit into {wanted}: write {key}: {wanted}{low}.",
    )


def _share(share: float) -> str:
    return f"{100 * share:.0f} %" if share else "none"


def _rounded(tokens: int) -> int:
    return -(-tokens // _ROUND) * _ROUND


def _span(lengths: Lengths) -> str:
    shortest, longest = lengths.percentiles[0], lengths.percentiles[-1]
    return f"{shortest:,}" if shortest == longest else f"{shortest:,} to {longest:,}"
