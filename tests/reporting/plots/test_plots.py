from __future__ import annotations

import sys
from typing import Any

import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from sweeper.analysis.comparison import compare
from sweeper.records.study_record import StudyRecord
from sweeper.reporting.plots import search
from sweeper.reporting.plots.style import COLOURS, arm_styles, png, spread
from tests.support.example_study import arm, completed, example_study, study, trial


def _texts(figure: Figure | None) -> set[str]:
    assert figure is not None
    return {text.get_text() for text in figure.findobj(Text)}


def _all_plots(record: StudyRecord) -> list[Figure | None]:
    comparison = compare(record)
    return [
        search.progress_plot(comparison),
        search.cost_plot(record, comparison),
    ]


def test_progress_and_cost_name_every_arm_the_ceiling_and_the_floor() -> None:
    record = example_study()
    progress, cost = _all_plots(record)

    for figure in (progress, cost):
        texts = " ".join(_texts(figure))
        for one in record.arms:
            assert one.name in texts
        assert {"teacher", "starting student"} <= _texts(figure)


def test_a_plot_is_a_png_that_does_not_depend_on_when_it_is_drawn() -> None:
    comparison = compare(example_study())

    first, second = (png(search.progress_plot(comparison) or Figure()) for _ in range(2))

    assert first.startswith(b"\x89PNG")
    assert first == second


def test_nothing_to_show_is_none() -> None:
    empty = study([arm("gkd", []), arm("sft", [])], teacher=None, student=None)

    assert _all_plots(empty) == [None, None]


def test_the_cost_axis_is_logarithmic_only_when_costs_are_far_apart() -> None:
    def scale(*seconds: float) -> Any:
        trials = [trial(n, completed(0.5, seconds=cost)) for n, cost in enumerate(seconds)]
        record = study([arm("sft", trials)])
        figure = search.cost_plot(record, compare(record))
        assert figure is not None
        return figure.axes[0].get_xscale()

    assert scale(10, 60) == "linear"
    assert scale(10, 600) == "log"
    assert scale(0, 600) == "linear"


def test_an_arm_with_one_trial_is_a_mark_with_its_name() -> None:
    figure = search.progress_plot(compare(example_study()))

    assert figure is not None
    drawn = {line.get_label(): line for line in figure.axes[0].lines}
    alone = drawn["gkd-default (gkd)"]
    assert (alone.get_linestyle(), len(alone.get_xydata())) == ("None", 1)
    assert drawn["sft"].get_linestyle() == "-"
    assert "gkd-default (gkd)" in {text.get_text() for text in figure.legends[0].get_texts()}


@pytest.mark.parametrize("arms", [2, 8, 30])
def test_the_legend_names_everything_and_stays_inside_the_figure(arms: int) -> None:
    trials = [trial(0, completed(0.5)), trial(1, completed(0.6))]
    record = study([arm(f"arm-{index}", trials, method="gkd") for index in range(arms)])
    for figure in _all_plots(record):
        assert figure is not None
        figure.draw_without_rendering()
        [legend] = figure.legends
        assert len(legend.get_texts()) == arms + 2
        box, frame = legend.get_window_extent(), figure.axes[0].get_tightbbox()
        assert frame is not None and box.y1 <= frame.y0
        assert figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1


def test_arms_differ_in_colour_or_marker_even_when_there_are_many() -> None:
    record = study([arm(f"arm{index}", [], method="gkd") for index in range(3 * len(COLOURS))])

    looks = arm_styles(compare(record))

    assert len(set(looks.values())) == len(record.arms)


def test_points_on_one_another_are_moved_apart_but_the_first_stays() -> None:
    placed = spread([(0.5, 0.5), (0.5, 0.5), (0.2, 0.2), (0.5, 0.5)])

    assert placed[0] == (0.5, 0.5)
    assert placed[2] == (0.2, 0.2)
    assert len(set(placed)) == 4


def test_plots_leave_pyplot_alone() -> None:
    _all_plots(example_study())

    assert "matplotlib.pyplot" not in sys.modules
