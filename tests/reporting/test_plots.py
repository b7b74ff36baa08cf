from __future__ import annotations

import sys
from typing import Any

import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from sweeper.analysis.comparison import compare
from sweeper.analysis.importance import Importance
from sweeper.reporting import plots
from sweeper.reporting.plot_labels import apart
from sweeper.reporting.plot_style import COLOURS, looks_of, png, spread
from sweeper.study_record import StudyRecord
from tests.reporting.example_study import GKD_SEARCH, arm, completed, example_study, study, trial


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
        plots.progress_plot(comparison),
        plots.cost_plot(record, comparison),
        plots.map_plot(record, comparison),
    ]


def test_progress_and_cost_name_every_arm_the_ceiling_and_the_floor() -> None:
    record = example_study()
    progress, cost, _ = _all_plots(record)

    for figure in (progress, cost):
        texts = " ".join(_texts(figure))
        for one in record.arms:
            assert one.name in texts
        assert {"teacher", "starting student"} <= _texts(figure)


def test_a_plot_is_a_png_that_does_not_depend_on_when_it_is_drawn() -> None:
    comparison = compare(example_study())

    first, second = (png(plots.progress_plot(comparison) or Figure()) for _ in range(2))

    assert first.startswith(b"\x89PNG")
    assert first == second


def test_nothing_to_show_is_none() -> None:
    empty = study([arm("gkd", []), arm("sft", [])], teacher=None, student=None)

    assert _all_plots(empty) == [None, None, None]
    assert plots.importance_plot([], compare(empty)) is None


def test_the_map_needs_gkd_trials_that_differ() -> None:
    offline = study([arm("sft", [trial(0, completed(0.5)), trial(1, completed(0.6))])])
    assert plots.map_plot(offline, compare(offline)) is None

    same = [trial(number, completed(number / 10), lmbda=0.5, beta=0.5) for number in range(3)]
    alike = study([arm("gkd", same, search=GKD_SEARCH)])
    assert plots.map_plot(alike, compare(alike)) is None


def test_the_map_tells_searched_trials_from_fixed_settings_and_failures() -> None:
    record = example_study()

    assert {"searched", "fixed settings", "failed"} <= _texts(
        plots.map_plot(record, compare(record))
    )


def test_the_map_can_be_drawn_where_lower_is_better_and_beta_is_a_range() -> None:
    trials = [
        trial(number, completed(number / 10), lmbda=number / 10, beta=0.123 * number)
        for number in range(8)
    ]
    record = study([arm("gkd", trials, search=GKD_SEARCH)], higher_is_better=False)

    assert "selection score: addition-select (lower is better)" in _texts(
        plots.map_plot(record, compare(record))
    )


def test_the_cost_axis_is_logarithmic_only_when_costs_are_far_apart() -> None:
    def scale(*seconds: float) -> Any:
        trials = [trial(n, completed(0.5, seconds=cost)) for n, cost in enumerate(seconds)]
        record = study([arm("sft", trials)])
        figure = plots.cost_plot(record, compare(record))
        assert figure is not None
        return figure.axes[0].get_xscale()

    assert scale(10, 60) == "linear"
    assert scale(10, 600) == "log"
    assert scale(0, 600) == "linear"


def test_importance_has_a_panel_for_each_arm() -> None:
    record = example_study()
    importances = [
        Importance(
            arm="gkd",
            values={"lmbda": 0.7, "beta": 0.3},
            trials=10,
            conditional={"temperature": 0.2},
            conditional_trials=8,
        ),
        Importance(
            arm="sft",
            values={"learning_rate": 0.6, "weight_decay": 0.4},
            trials=12,
            conditional={},
            conditional_trials=0,
        ),
    ]

    texts = _texts(plots.importance_plot(importances, compare(record)))

    assert {"gkd (10 trials)", "sft (12 trials)", "70 %", "20 %, in 8 trials"} <= texts


def test_the_importances_of_an_arm_are_shown_as_what_sums_to_a_hundred() -> None:
    thirds = Importance(
        arm="gkd",
        values={"lmbda": 0.3334, "beta": 0.3333, "temperature": 0.3333},
        trials=9,
        conditional={},
        conditional_trials=0,
    )

    figure = plots.importance_plot([thirds], compare(example_study()))

    assert figure is not None
    shown = [text.get_text() for text in figure.axes[0].texts]
    assert shown == ["34 %", "33 %", "33 %"]
    assert "sum to 100 %" in figure.get_supxlabel()


def test_an_arm_with_one_trial_is_a_mark_with_its_name() -> None:
    figure = plots.progress_plot(compare(example_study()))

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
    figure = plots.progress_plot(compare(study(arms, teacher=0.7, student=0.699)))

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
    figure = plots.cost_plot(record, compare(record))

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
    for figure in (plots.progress_plot(compare(record)), plots.cost_plot(record, compare(record))):
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

    looks = looks_of(compare(record))

    assert len(set(looks.values())) == len(record.arms)


def test_points_on_one_another_are_moved_apart_but_the_first_stays() -> None:
    placed = spread([(0.5, 0.5), (0.5, 0.5), (0.2, 0.2), (0.5, 0.5)])

    assert placed[0] == (0.5, 0.5)
    assert placed[2] == (0.2, 0.2)
    assert len(set(placed)) == 4


def test_plots_leave_pyplot_alone() -> None:
    _all_plots(example_study())

    assert "matplotlib.pyplot" not in sys.modules
