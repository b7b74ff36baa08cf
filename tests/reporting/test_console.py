from __future__ import annotations

import io

import pytest
from rich.cells import cell_len
from rich.console import Console, RenderableType
from rich.text import Text

from sweeper.analysis.across_studies import compare_studies
from sweeper.analysis.comparison import SELECTION_NOTE, compare
from sweeper.analysis.findings import Finding, Preflight
from sweeper.records import EnqueuedSettings
from sweeper.records.study_record import StudyRecord
from sweeper.reporting.console import show
from sweeper.reporting.live import ArmProgress, EndedJob, LiveJob, LiveState, _LiveArea
from sweeper.reporting.report_data import ReportData
from sweeper.reporting.summary import show_study
from sweeper.reporting.tables.check import check_view
from sweeper.reporting.tables.comparison import ComparisonView
from sweeper.reporting.tables.studies import StudiesView
from sweeper.reporting.tables.trials import StatusView
from tests.support.confirmed_study import confirmed_study
from tests.support.example_study import (
    GKD_SEARCH,
    LR,
    arm,
    completed,
    example_study,
    failed,
    study,
    trial,
)

WIDTHS = [60, 80, 120, 200]


def rendered(view: RenderableType, width: int, *, colour: bool = False) -> str:
    console = Console(
        file=io.StringIO(),
        width=width,
        force_terminal=colour,
        color_system="truecolor" if colour else None,
        legacy_windows=False,
    )
    console.print(view)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def comparison_text(record: StudyRecord, width: int = 120) -> str:
    return rendered(ComparisonView(compare(record)), width)


def flat(text: str) -> str:
    return " ".join(text.split())


@pytest.mark.parametrize("width", WIDTHS)
def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    record = example_study()

    for view in (ComparisonView(compare(record)), StatusView(record)):
        assert max(len(line) for line in rendered(view, width).splitlines()) <= width


@pytest.mark.parametrize("width", WIDTHS)
def test_every_width_shows_each_arm_its_score_and_the_caveat(width: int) -> None:
    text = comparison_text(example_study(), width)

    for name in ("gkd-default", "sft", "seqkd", "supervised_kd", "teacher", "start"):
        assert any(line.startswith(name) for line in text.splitlines())
    assert "0.787 ± 0.016" in text
    assert "lmbda 1 · beta 0.5 · lr 1.4e-3" in text
    assert SELECTION_NOTE.split(",")[0] in flat(text).replace(" ·", "")


def test_a_narrow_terminal_keeps_a_row_on_one_line() -> None:
    lines = comparison_text(example_study(), 80).splitlines()

    row = next(line for line in lines if line.startswith("supervised_kd"))
    assert row.split() == ["supervised_kd", "12/0", "0.717", "±", "0.016", "–", *row.split()[6:]]
    assert row.rstrip().endswith("65 %       17")


def test_a_wide_terminal_has_the_settings_and_the_tokens_in_the_table() -> None:
    lines = comparison_text(example_study(), 200).splitlines()

    row = next(line for line in lines if line.startswith("gkd  "))
    assert "96k / 64k" in row
    assert "lmbda 1 · beta 0.5 · lr 1.4e-3 · temp 0.78" in row
    assert "Best settings" not in "\n".join(lines)


def test_colour_changes_no_character() -> None:
    view = ComparisonView(compare(example_study()))

    coloured = rendered(view, 80, colour=True)

    assert "\x1b[" in coloured
    plain = Text.from_ansi(coloured).plain
    assert [line.rstrip() for line in plain.splitlines()] == [
        line.rstrip() for line in rendered(view, 80).splitlines()
    ]


def test_the_headline_says_by_how_much_gkd_leads() -> None:
    text = flat(comparison_text(example_study()))

    assert "gkd has the best score on the selection suite addition-select: 0.787 ± 0.016" in text
    assert (
        "GKD leads the best offline arm (supervised_kd, 0.717 ± 0.016) by 0.069, 3.1 standard"
        " errors of the difference." in text
    )


def test_a_small_lead_is_not_called_clear() -> None:
    record = study(
        [arm("gkd", [trial(0, completed(0.70))]), arm("sft", [trial(0, completed(0.69))])]
    )

    assert "which is not a clear difference" in flat(comparison_text(record))


def test_gkd_behind_an_offline_arm_is_said() -> None:
    record = study([arm("gkd", [trial(0, completed(0.6))]), arm("sft", [trial(0, completed(0.8))])])

    text = flat(comparison_text(record))

    assert text.startswith("sft has the best score")
    assert "GKD is behind the best offline arm (sft, 0.800 ± 0.016) by 0.200, 8.8" in text


def test_a_tie_has_no_winner() -> None:
    record = study([arm("gkd", [trial(0, completed(1.0))]), arm("sft", [trial(0, completed(1.0))])])

    text = flat(comparison_text(record))

    assert text.startswith("gkd and sft both have the best score")
    assert "GKD is level with the best offline arm (sft, 1.000 ± 0.016)." in text


def test_where_lower_is_better_a_negative_difference_is_a_lead() -> None:
    record = study(
        [arm("gkd", [trial(0, completed(0.7))]), arm("sft", [trial(0, completed(0.9))])],
        teacher=0.5,
        student=1.5,
        higher_is_better=False,
    )

    text = flat(comparison_text(record))

    assert "GKD leads the best offline arm (sft, 0.900 ± 0.016) by 0.200" in text
    assert "-0.200 ± 0.023" in text
    assert "Lower scores are better: a negative difference is a lead." in text


def test_failures_unequal_budgets_and_missing_trials_are_printed() -> None:
    record = study(
        [
            arm("gkd", [trial(0, failed())], budget=4, search=GKD_SEARCH),
            arm("sft", [trial(0, completed(0.5))], budget=2, search={"learning_rate": LR}),
        ]
    )

    text = flat(comparison_text(record))

    assert "Failed trials gkd 1 out of memory" in text
    assert "Trial budgets differ (gkd 4, sft 2)" in text
    assert "The study is not finished: 4 of 6 trials are missing (gkd 3, sft 1)." in text
    assert "No GKD arm has a score." in text


def test_without_any_score_nothing_is_claimed() -> None:
    record = study([arm("gkd", [trial(0, failed())])], teacher=None, student=None)

    text = comparison_text(record)

    assert text.startswith("No trial completed: there is nothing to compare.")
    assert "selection suite" not in text


def test_scores_beyond_the_ends_are_marked_in_the_bar() -> None:
    record = study(
        [arm("gkd", [trial(0, completed(0.99))]), arm("sft", [trial(0, completed(0.2))])]
    )

    lines = comparison_text(record).splitlines()

    assert "▸ 108 %" in next(line for line in lines if line.startswith("gkd  "))
    assert "◂" in next(line for line in lines if line.startswith("sft  "))


def test_the_status_lists_every_trial_with_its_state_and_the_reason_of_failures() -> None:
    record = example_study()

    text = rendered(StatusView(record), 120)

    numbers = [line for line in text.splitlines() if line.split()[:1] and line.split()[0].isdigit()]
    assert len(numbers) == sum(len(arm.trials) for arm in record.arms)
    assert "46 of 49 trials completed, 2 failed, 1 running" in text
    assert "failed: out of memory" in text
    assert "gkd #3  out of memory: CUDA out of memory" in text
    assert "running" in next(line for line in numbers if "lmbda 0.75 · beta 0 · lr 2e-3" in line)


def test_trials_with_given_settings_are_named_and_what_follows_is_said() -> None:
    pilot = EnqueuedSettings(settings={"beta": 0.0}, study="pilot", arm="gkd", trial=4, score=0.5)
    given = [EnqueuedSettings(settings={"beta": 0.5}), pilot]
    gkd = [
        trial(n, completed(0.7 - n / 10), beta=0.5 * (1 - n)).model_copy(update={"enqueued": e})
        for n, e in enumerate([*given, None])
    ]
    sft = [trial(0, completed(0.5), learning_rate=1e-3)]
    arms = [arm("gkd", gkd, search=GKD_SEARCH), arm("sft", sft, search={"learning_rate": LR})]

    notes = flat(comparison_text(study(arms)).replace(" · ", " "))
    for sentence in (
        "Searches started with given settings (gkd #0 from the study file, #1 from pilot gkd #4),",
        "The best trial of gkd had given settings.",
        "Trial budgets do not count the earlier trials of pilot.",
        "Given settings are knowledge that the search of sft did not have.",
    ):
        assert sentence in notes
    rows = rendered(StatusView(study(arms)), 120)
    assert "beta 0.5 (start_with)\n" in rows
    assert "beta 0 (start_with: pilot gkd #4)\n" in rows
    assert rows.count("start_with") == 2
    assert "start_with" not in comparison_text(example_study())


def test_markup_in_values_is_shown_as_it_is_written() -> None:
    record = study(
        [arm("sft", [trial(0, failed(message="[bold]shape [3]"), **{"teacher.model": "a[b]c"})])]
    )

    text = rendered(StatusView(record), 120)

    assert "[bold]shape [3]" in text
    assert "teacher.model a[b]c" in text


def test_a_pipe_gets_no_blanks_that_fill_a_terminals_lines() -> None:
    view = ComparisonView(compare(example_study()))
    filled = rendered(view, 100)
    pipe = io.StringIO()
    show(view, Console(file=pipe, width=100, force_terminal=False))
    assert any(line.endswith(" ") for line in filled.splitlines())
    assert pipe.getvalue().splitlines() == [line.rstrip() for line in filled.splitlines()]


LIVE = LiveState(
    "adder",
    started=0.0,
    arms=(ArmProgress("gkd", "gkd", 4, done=1, best=0.7), ArmProgress("supervised_kd", "sft", 4)),
    running=(LiveJob("supervised_kd #0", "train", step=10, max_steps=100, loss=1.25),),
    ended=(EndedJob("gkd #0", failure="out of memory: CUDA out of memory", seconds=34.0),),
    seconds_left=300.0,
)
FINDINGS = (
    Finding(state="ok", what="study file", detail="adder: gkd, sft"),
    Finding(
        state="warning",
        what="selection suite",
        detail="/home/somebody/studies/selection.yaml: 12 documents of addition, exact_match",
        advice="Write more documents.",
        place="study.yaml:3:5: evaluation.selection",
    ),
)


@pytest.mark.parametrize("width", [20, 30, 40])
@pytest.mark.parametrize("view", ["check", "status", "report", "studies", "live"])
def test_narrow_terminal_keeps_every_text_readable(view: str, width: int) -> None:
    record = confirmed_study()
    console = Console(width=width, file=io.StringIO(), markup=False)
    if view == "report":
        show_study(ReportData.of(record), console)
    else:
        area = _LiveArea()
        area.state = LIVE
        views: dict[str, RenderableType] = {
            "check": check_view(Preflight(findings=FINDINGS)),
            "status": StatusView(record),
            "studies": StudiesView(compare_studies([record, confirmed_study(8, name="b")])),
            "live": area,
        }
        show(views[view], console)
    assert isinstance(console.file, io.StringIO)
    lines = [line.rstrip() for line in console.file.getvalue().splitlines()]
    assert max(map(cell_len, lines)) <= width
    # Neither cut nor a column of letters.
    assert not [line for line in lines if "…" in line]
    short = [0 < len(line.strip()) <= 3 for line in lines]
    assert not any(all(short[at : at + 3]) for at in range(len(lines) - 2)), "\n".join(lines)


def test_narrow_terminal_names_each_finding_on_a_line_of_its_own() -> None:
    console = Console(width=20, file=io.StringIO(), markup=False)
    show(check_view(Preflight(findings=FINDINGS)), console)
    assert isinstance(console.file, io.StringIO)
    lines = console.file.getvalue().splitlines()
    assert lines[:3] == ["✓ study file", "  adder: gkd, sft", "! selection suite"]
    assert lines[-2:] == ["  exact_match. Write", "  more documents."]
