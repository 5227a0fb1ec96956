"""The pictures of comparisons: what they show is in the right place, whatever the size of the images."""

import numpy as np
import pytest
from PIL import Image

from srcluster.pixels.figures import FRAME, GAP_PX, INK, PAPER, comparison, detail_box, grid


def noise(height: int, width: int, *channels: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, *channels), dtype=np.uint8)


def flat_with_texture(height: int, width: int, box: tuple[int, int, int, int]) -> np.ndarray:
    """Grey, with noise in one region."""
    image = np.full((height, width, 3), 128, np.uint8)
    left, top, box_width, box_height = box
    image[top : top + box_height, left : left + box_width] = noise(box_height, box_width, 3)
    return image


@pytest.mark.parametrize(("height", "width"), [(4, 4), (5, 9), (80, 80), (321, 481), (1000, 700), (60, 900), (900, 60)])
@pytest.mark.parametrize("scale", [2, 3, 4])
def test_the_detail_is_inside_and_aligned_to_the_scale(height, width, scale):
    left, top, box_width, box_height = detail_box(noise(height, width, 3), scale)

    assert 0 <= left < left + box_width <= width
    assert 0 <= top < top + box_height <= height
    assert all(side % scale == 0 for side in (left, top, box_width, box_height))
    assert box_width <= 72
    assert box_height <= 54


def test_the_detail_is_where_downscaling_loses_most():
    image = flat_with_texture(400, 600, (300, 200, 72, 52))

    assert detail_box(image) == (300, 200, 72, 52)


def test_the_detail_is_where_several_versions_differ_most():
    original = flat_with_texture(400, 600, (300, 200, 72, 52))
    other = original.copy()
    other[100:152, 400:472] += 20
    assert detail_box(original, 4, [original]) == (300, 200, 72, 52)
    left, top, _, _ = detail_box(original, 4, [original, other, original])
    assert abs(left - 400) <= 4
    assert abs(top - 100) <= 4


def test_the_detail_keeps_away_from_the_border():
    left, top, _, _ = detail_box(flat_with_texture(400, 600, (0, 0, 90, 80)))

    assert left >= 40
    assert top >= 40


def test_the_detail_of_an_image_smaller_than_the_scale_is_refused():
    with pytest.raises(ValueError, match="no detail"):
        detail_box(noise(3, 40, 3))


def test_the_detail_shows_true_pixels_magnified():
    image = noise(200, 300, 3)
    box = detail_box(image)
    left, top, width, height = box
    factor = 288 // width

    page = np.asarray(comparison([("original", image)], box))

    shown = page[-GAP_PX - height * factor : -GAP_PX : factor, GAP_PX : GAP_PX + width * factor : factor]
    np.testing.assert_array_equal(shown, image[top : top + height, left : left + width])


def test_a_frame_marks_the_detail_in_the_whole_image():
    image = np.full((144, 288, 3), 128, np.uint8)  # as wide as a column: drawn as it is
    page = np.asarray(comparison([("a", image)], (96, 48, 72, 52)))

    rows, columns = np.where((page == FRAME).all(axis=2))

    top_of_image = page.shape[0] - GAP_PX - 4 * 52 - GAP_PX // 2 - 144
    assert (columns.min(), columns.max()) == (GAP_PX + 96 - 2, GAP_PX + 96 + 72 + 1)
    assert (rows.min(), rows.max()) == (top_of_image + 48 - 2, top_of_image + 48 + 52 + 1)


@pytest.mark.parametrize(
    ("height", "width"), [(8, 8), (80, 80), (256, 256), (321, 481), (1000, 1500), (100, 1500), (1500, 100)]
)
def test_every_size_gives_columns_of_readable_width(height, width):
    image = noise(height, width, 3)

    page = comparison([("bicubic 28.42 dB", image), ("original", image)], detail_box(image))

    column_px = (page.width - 3 * GAP_PX) / 2
    assert 200 < column_px < 400
    assert page.height < 3 * column_px
    assert page.getpixel((0, 0)) == page.getpixel((page.width - 1, page.height - 1)) == PAPER


def test_labels_are_drawn_over_their_columns():
    image = np.full((80, 80, 3), 255, np.uint8)

    page = np.asarray(comparison([("bicubic 28.42 dB", image), ("", image), ("original", image)]).convert("L"))

    dark = page < 100
    columns = np.array_split(dark, 3, axis=1)
    assert [bool(column.any()) for column in columns] == [True, False, True]


def test_a_long_label_is_broken_into_lines_and_not_cut():
    image = np.full((80, 80, 3), 255, np.uint8)

    short, long = (comparison([(label, image)]) for label in ("srcnn", "srcnn 9-5-5 with Adam at 0.0001 " * 3))

    assert long.width == short.width
    assert long.height > short.height
    ink = (np.asarray(long) == INK).all(axis=2)
    assert not ink[:, :GAP_PX].any()
    assert not ink[:, -GAP_PX:].any()


def test_a_grey_image_stands_beside_a_coloured_one():
    page = comparison([("grey", noise(96, 96)), ("rgb", noise(96, 96, 3))], (32, 32, 32, 24))

    assert page.mode == "RGB"


def test_panels_of_different_sizes_are_refused():
    with pytest.raises(ValueError, match="one size"):
        comparison([("a", noise(80, 80, 3)), ("b", noise(80, 84, 3))])


def test_no_panel_is_refused():
    with pytest.raises(ValueError, match="one size"):
        comparison([])


@pytest.mark.parametrize("box", [(60, 0, 32, 24), (-4, 0, 32, 24), (0, 0, 0, 0), (0, 70, 32, 24)])
def test_a_box_outside_is_refused(box):
    with pytest.raises(ValueError, match="not inside"):
        comparison([("a", noise(80, 80, 3))], box)


def test_a_page_stacks_comparisons_under_their_titles():
    narrow, wide = Image.new("RGB", (100, 50), "red"), Image.new("RGB", (300, 70), "blue")

    page = grid([("baby", narrow), ("bird", wide)])

    assert page.width == 300
    assert page.height > 50 + 70
    assert page.getpixel((299, page.height - 1)) == (0, 0, 255)
    with pytest.raises(ValueError, match="at least one"):
        grid([])
