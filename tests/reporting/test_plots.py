from __future__ import annotations

import sys
from typing import Any

from matplotlib.figure import Figure

from sweeper.analysis.comparison import compare
from sweeper.analysis.importance import Importance
from sweeper.records import StudyRecord
from sweeper.reporting import plots
from sweeper.reporting.plot_style import COLOURS, looks_of, png, spread
from tests.reporting.example_study import GKD_SEARCH, arm, completed, example_study, study, trial


def _texts(figure: Figure | None) -> set[str]:
    from matplotlib.text import Text

    assert figure is not None
    return {text.get_text() for text in figure.findobj(Text)}


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
