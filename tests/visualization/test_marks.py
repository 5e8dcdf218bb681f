import numpy as np
import pytest

from detr_d2.visualization.colors import distinct_color, object_colors
from detr_d2.visualization.marks import draw_box, draw_label, draw_legend
from detr_d2.visualization.sheet import stack_rows, text_strip, with_title


def black(height: int = 60, width: int = 100) -> np.ndarray:
    return np.zeros((height, width, 3), dtype=np.uint8)


def test_colours_are_far_from_each_other() -> None:
    colors = np.array([distinct_color(i) for i in range(8)])
    distances = np.abs(colors[:, None] - colors).max(-1)
    assert distances[~np.eye(8, dtype=bool)].min() > 40


def test_objects_of_a_class_differ_in_shade() -> None:
    classes = [0, 1, 0, 0, 1]
    assert len(set(object_colors(classes, None))) == 5
    assert object_colors(classes, [(10, 20, 30), (200, 100, 0)])[:2] == [(10, 20, 30), (200, 100, 0)]


@pytest.mark.parametrize("place", [(-50, -50), (1000, 5), (95, 1000), (30, 30)])
def test_labels_stay_inside(place) -> None:
    picture = black()
    draw_label(picture, "name", *place, (255, 0, 0))
    assert 200 < (picture[..., 0] > 0).sum() < 1000


def test_a_label_larger_than_the_picture() -> None:
    picture = black(8, 12)
    draw_label(picture, "a long name", 5, 5, (255, 255, 255))
    assert picture.any()


def test_boxes_on_the_margin_are_seen() -> None:
    whole, dashed = black(), black()
    draw_box(whole, (-5, 0, 100, 200), (255, 255, 255))
    draw_box(dashed, (-5, 0, 100, 200), (255, 255, 255), dashed=True)
    for side in (whole[1], whole[-2], whole[:, 1], whole[:, -2]):
        assert side[2:-2].all()
    assert 0.3 < (dashed > 0).sum() / (whole > 0).sum() < 0.8


@pytest.mark.parametrize("text", ["two\nlines", "caf\udce9.png", "$x_1$", ""])
def test_any_name_is_written(text: str) -> None:
    picture = black()
    draw_label(picture, text, 5, 5, (255, 0, 0))
    assert picture.any()
    assert with_title(picture, text).shape[1] == 100
    assert draw_legend({text: (255, 0, 0)}, 100).shape[1] == 100


def test_titles_have_the_width_of_the_picture() -> None:
    for text in ("short", "a title that is a good deal longer than the picture is wide", "Straßenkreuzung 交通"):
        strip = text_strip(text, 100)
        assert strip.shape[1] == 100
        assert (strip < 100).any()
        assert not (strip[[0, -1]] < 100).any()
    assert with_title(black(), "one", "two").shape == (60 + 2 * len(strip), 100, 3)


def test_rows_of_different_lengths() -> None:
    sheet = stack_rows([[black(), black()], [black(20)]])
    assert sheet.shape == (80, 200, 3)
    assert (sheet[60:, 100:] == 255).all()
