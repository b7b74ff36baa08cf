from __future__ import annotations

import sys
from typing import Any

import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from sweeper.analysis.comparison import compare
from sweeper.records.study_record import StudyRecord
from sweeper.reporting.plots import search
from sweeper.reporting.plots.labels import apart
from sweeper.reporting.plots.style import COLOURS, arm_styles, png, spread
from tests.support.example_study import arm, completed, example_study, study, trial


def _texts(figure: Figure | None) -> set[str]:
    assert figure is not None
    return {text.get_text() for text in figure.findobj(Text)}


def _boxes(figure: Figure) -> dict[str, Bbox]:
    """Where the letters of the names in the first axes are, in pixels."""
    figure.draw_without_rendering()
    return {text.get_text(): Text.get_window_extent(text) for text in figure.axes[0].texts}


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
    assert "gkd-default (gkd)" in _boxes(figure)


def test_names_at_the_ends_of_lines_cover_neither_each_other_nor_the_frame() -> None:
    # Five arms that end at nearly the same score, above the teacher and next to the upper edge.
    arms = [
        arm(
            f"arm-{index}",
            [trial(n, completed(0.7 + index / 1000 + n / 1e4)) for n in range(3)],
            method="sft",
        )
        for index in range(5)
    ]
    figure = search.progress_plot(compare(study(arms, teacher=0.7, student=0.699)))

    assert figure is not None
    boxes = list(_boxes(figure).values())
    assert len(boxes) == 7
    frame = figure.axes[0].get_window_extent()
    for index, box in enumerate(boxes):
        assert frame.x1 < box.x0 and box.x1 <= figure.bbox.x1
        assert frame.y0 <= box.y0 and box.y1 <= frame.y1
        assert not any(box.overlaps(other) for other in boxes[:index])


def test_names_beside_points_touch_no_line_and_no_other_name() -> None:
    # Bests on and beside the line of the starting student.
    places = {"gkd": (0.51, 12.0), "sft": (0.512, 10.0), "seqkd": (0.505, 14.0)}
    arms = [arm(name, [trial(0, completed(y, seconds=x))]) for name, (y, x) in places.items()]
    record = study(arms, student=0.51)
    figure = search.cost_plot(record, compare(record))

    assert figure is not None
    boxes = _boxes(figure)
    names = [boxes[name] for name in places]
    line = figure.axes[0].transData.transform((0, 0.51))[1]
    for index, box in enumerate(names):
        assert not box.y0 <= line <= box.y1
        assert not any(box.overlaps(other) for other in names[:index])


def test_too_many_names_become_a_legend() -> None:
    trials = [trial(0, completed(0.5)), trial(1, completed(0.6))]
    record = study([arm(f"arm-{index}", trials, method="gkd") for index in range(30)])
    for figure in (
        search.progress_plot(compare(record)),
        search.cost_plot(record, compare(record)),
    ):
        assert figure is not None
        assert set(_boxes(figure)) == {"teacher", "starting student"}
        assert len(figure.legends[0].get_texts()) == 30


@pytest.mark.parametrize(
    ("positions", "expected"),
    [
        ([50.0, 10.0], [50.0, 10.0]),
        ([10.0, 10.0, 10.0], [0.0, 10.0, 20.0]),
        ([10.0, 12.0, 90.0], [6.0, 16.0, 90.0]),
        ([100.0, 99.0], [100.0, 90.0]),
        ([float(place) for place in range(21)], [5.0 * place for place in range(21)]),
    ],
)
def test_positions_are_moved_apart_by_as_little_as_it_takes(
    positions: list[float], expected: list[float]
) -> None:
    assert apart(positions, gap=10, low=0, high=100) == pytest.approx(expected)


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
