"""Leakage against utility: which points there are, where their labels go, and what the figure says in words."""

import json
import math
from itertools import combinations
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.axes import Axes
from matplotlib.text import Annotation

from fl_privacy.simulations.report import tradeoff
from fl_privacy.simulations.report.labels import Box, place
from fl_privacy.simulations.report.tradeoff import Estimate, blind_guesses, draw_tradeoff, over_seeds, points, strongest

RESULTS = Path(__file__).parent.parent / "results"


def row(attack, defence, psnr, accuracy, **more):
    low, high = (None, None) if psnr is None else (psnr - 1, psnr + 2)
    return {
        **{"attack": attack, "defence": defence, "psnr": psnr, "psnr_low": low, "psnr_high": high},
        **{"model_accuracy": accuracy, **more},
    }


CONTROLS = [row("control: random guess", "none", 9.0, None), row("control: mean image", "none", 12.0, None)]
ROWS = [row("grnn", "none", 40.0, 0.75), row("grnn", "gaussian_noise(scale=0.3)", 11.0, 0.71), *CONTROLS]


@pytest.fixture
def drawn(monkeypatch, tmp_path):
    """Draws rows and gives the figure, which has been written too."""
    kept = []
    save = tradeoff.save
    monkeypatch.setattr(tradeoff, "save", lambda figure, path: kept.append(figure) or save(figure, path))

    def draw(rows):
        path = draw_tradeoff(tmp_path / "tradeoff.png", "mine", rows)
        assert path is not None
        assert path.read_bytes().startswith(b"\x89PNG")
        return kept[-1]

    return draw


def labels(figure):
    return [each for each in figure.axes[0].texts if isinstance(each, Annotation)]


def test_a_run_gives_a_point_a_defence_with_the_interval_over_its_images():
    first, second = points(ROWS)
    assert (first.defence, first.attack) == ("none", "grnn")
    assert (first.leakage.low, first.leakage.value, first.leakage.high) == (39.0, 40.0, 42.0)
    assert first.utility.low == first.utility.value == first.utility.high == 0.75
    assert second.leakage.value == 11.0


def test_several_seeds_give_the_mean_and_its_interval_over_them():
    measured = [(40, 0.7), (42, 0.75), (44, 0.8)]
    (point,) = points(
        [row("grnn", "none", psnr, accuracy, seed=seed) for seed, (psnr, accuracy) in enumerate(measured)]
    )
    assert point.leakage.value == pytest.approx(42)
    assert point.leakage.high - 42 == pytest.approx(4.302653 * 2 / 3**0.5), "the table of Student's t, two degrees"
    assert 42 - point.leakage.low == pytest.approx(point.leakage.high - 42)
    assert point.utility.value == pytest.approx(0.75)
    assert point.utility.high - 0.75 == pytest.approx(4.302653 * 0.05 / 3**0.5)


def test_an_interval_over_seeds_stays_among_the_values_that_there_are():
    assert over_seeds([0.9, 1.0], 0, 1).high == 1
    assert over_seeds([0.9, 1.0]).high == pytest.approx(0.95 + 12.706205 * 0.05)
    assert over_seeds([0.9]) == Estimate(0.9, 0.9, 0.9)


def test_a_defence_is_judged_by_the_attack_that_got_most():
    rows = [row(attack, "none", psnr, 0.9) for attack, psnr in (("weak", 12.0), ("strong", 20.0), ("middling", 15.0))]
    assert [each.attack for each in strongest(points(rows))] == ["strong"]


def test_controls_are_no_points_and_unknown_values_make_none():
    rows = [*ROWS, row("labels_only", "none", None, 0.75), row("grnn", "clip(norm=1.0)", 20.0, None)]
    assert len(points(rows)) == 2
    assert {name: each.value for name, each in blind_guesses(rows).items()} == {"random guess": 9.0, "mean image": 12.0}


def test_nothing_is_drawn_where_nothing_is_compared(tmp_path):
    assert draw_tradeoff(tmp_path / "one.png", "mine", [ROWS[0], *CONTROLS]) is None
    assert draw_tradeoff(tmp_path / "one.png", "mine", [row("weak", "none", 12.0, 0.9), *ROWS[:1]]) is None
    assert not (tmp_path / "one.png").exists()


def test_no_line_joins_defences(drawn):
    joined = [line for line in drawn(ROWS).axes[0].lines if len(line.get_xdata()) > 1 and line.get_linestyle() == "-"]
    assert not joined


def test_the_axes_fit_the_data_and_the_grey_band_ends_at_the_best_blind_guess(drawn):
    axes = drawn(ROWS).axes[0]
    low, high = axes.get_xlim()
    assert 65 < low < 71
    assert 75 < high < 80
    (band,) = [patch for patch in axes.patches if patch.get_zorder() == 0]
    assert band.get_y() == axes.get_ylim()[0]
    assert band.get_y() + band.get_height() == pytest.approx(14.0)
    texts = {each.get_text() for each in axes.texts}
    assert {"blind guess: mean image", "blind guess: random guess"} <= texts


def test_names_of_controls_that_are_close_do_not_lie_on_each_other(drawn):
    levels = {"random guess": 12.8, "mean image": 13.1, "class mean": 13.4}
    near = [row(f"control: {name}", "none", level, None) for name, level in levels.items()]
    figure = drawn([*ROWS[:2], *near])
    figure.canvas.draw()
    boxes = [text.get_window_extent() for text in figure.axes[0].texts if "guess" in text.get_text()]
    assert len(boxes) == 3
    assert not any(one.overlaps(other) for one, other in combinations(boxes, 2))


def test_no_tick_says_more_than_all(drawn):
    axes = drawn([row("grnn", "none", 40.0, 1.0), row("grnn", "clip(norm=1.0)", 20.0, 0.0)]).axes[0]
    assert all(0 <= tick <= 100 for tick in axes.get_xticks())


def test_what_is_left_out_and_what_bars_are_is_said(drawn):
    hidden = [row("grnn", "clip(norm=1.0)", 20.0, None), row("labels", "arg_max", None, 0.7)]
    words = " ".join(drawn([*ROWS, *hidden])._supxlabel.get_text().split())
    assert "Left out, because an accuracy or an image is missing: clip, norm=1.0, arg max." in words
    assert "95 % intervals over images" in words
    several = [{**each, "seed": seed} for seed in (0, 1, 2) for each in ROWS]
    assert "Bars: 95 % intervals (Student's t) over 3 seeds." in " ".join(drawn(several)._supxlabel.get_text().split())


def assert_apart(figure):
    """No label covers another, another's point or the edge of the axes, in the figure as written."""
    figure.draw_without_rendering()
    axes: Axes = figure.axes[0]
    boxes = []
    for each in labels(figure):
        extent = super(Annotation, each).get_window_extent()  # the text without its line
        boxes.append(Box(extent.x0, extent.y0, extent.x1, extent.y1))
    area = axes.get_window_extent()
    assert not any(a.meets(b) for a, b in combinations(boxes, 2))
    assert all(box.inside(Box(area.x0, area.y0, area.x1, area.y1)) for box in boxes)
    places = [axes.transData.transform(each.xy) for each in labels(figure)]
    assert not any(Box(x, y, x, y).grown(3).meets(box) for x, y in places for box in boxes)


@pytest.mark.parametrize("name", ["gradient_noise", "titcombe_attacks", "vicious_table8", "vicious_table1_mnist"])
def test_labels_of_real_results_overlap_nothing(drawn, name):
    rows = json.loads((RESULTS / f"{name}.json").read_text())["rows"]
    figure = drawn(rows)
    assert_apart(figure)
    assert len(labels(figure)) == len({each["defence"] for each in rows if not each["attack"].startswith("control")})
    assert any("no defence" in each.get_text() or "softmax" in each.get_text() for each in labels(figure)), "names"


def test_too_many_names_become_numbers_with_a_list(drawn):
    crowd = [
        row(
            "grnn",
            f"laplace_noise(scale={scale}) + clip(norm={scale})",
            15 + math.sin(scale),
            0.9 + 0.002 * math.cos(scale),
        )
        for scale in range(39)
    ]
    figure = drawn([*crowd, *CONTROLS])
    assert_apart(figure)
    assert sorted(int(each.get_text()) for each in labels(figure)) == list(range(1, 40))
    key = figure.axes[0].get_legend().get_title().get_text().splitlines()
    assert (len(key), key[2]) == (39, "3  laplace noise, scale=2 + clip, norm=2")


def test_a_part_that_every_name_has_is_said_once(drawn):
    figure = drawn([row("grnn", f"softmax; serving {each}", 15 + n, 0.9) for n, each in enumerate(["none", "arg_max"])])
    assert {each.get_text() for each in labels(figure)} == {"serving no defence", "serving arg max"}
    assert "All of them: softmax." in " ".join(figure._supxlabel.get_text().split())


AREA = Box(0, 0, 900, 600)


@given(
    st.lists(st.tuples(st.floats(50, 850), st.floats(50, 550)), min_size=1, max_size=12),
    st.tuples(st.floats(5, 120), st.floats(8, 40)),
)
def test_placed_labels_are_inside_and_apart_or_there_are_none(where, size):
    taken = [Box(x, y, x, y).grown(4) for x, y in where]
    found = place(where, [size] * len(where), AREA, taken)
    if found is not None:
        assert len(found) == len(where)
        assert all(box.inside(AREA) for box in found)
        assert not any(a.meets(b) for a, b in combinations([*found, *taken], 2) if a in found)
        for box, point in zip(found, where, strict=True):
            assert not any(other.crossed_by(point, box.centre) for other in found if other is not box)
        assert found == place(where, [size] * len(where), AREA, taken), "the same figure every time"


def test_a_label_stands_right_of_a_point_that_is_alone():
    (box,) = place([(400, 300)], [(60, 12)], AREA, [Box(396, 296, 404, 304)])
    assert (box.left, box.bottom, box.top) == (pytest.approx(406), 294, 306)


def test_a_label_with_no_room_is_not_placed():
    assert place([(10, 10)], [(950, 12)], AREA, []) is None


@pytest.mark.parametrize(
    ("start", "end", "crossed"),
    [
        ((0, 0), (10, 10), True),
        ((0, 6), (10, 6), True),
        ((5, 0), (5, 3), False),
        ((0, 5), (3, 5), False),
        ((0, 9), (9, 0), True),
        ((0, 13), (13, 0), False),
        ((5, 5), (5, 5), True),
        ((1, 1), (1, 1), False),
    ],
)
def test_a_line_crosses_a_box(start, end, crossed):
    box = Box(4, 4, 6, 6)
    steps = [tuple(a + (b - a) * step / 1000 for a, b in zip(start, end, strict=True)) for step in range(1001)]
    assert any(4 <= x <= 6 and 4 <= y <= 6 for x, y in steps) == crossed, "the case itself"
    assert box.crossed_by(start, end) == box.crossed_by(end, start) == crossed
