"""Pictures of a comparison, as papers on super-resolution print them: Pillow alone, pure functions."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

Box = tuple[int, int, int, int]
"""A region of an image in pixels: left, top, width, height."""

COLUMN_PX = 288
"""About the width of a column; the detail's magnification, a whole number, decides the rest."""

DETAIL_PX = 72
"""The widest detail that is picked: its pixels are seen fourfold."""

GAP_PX = 8
FONT_PX, TITLE_PX = 16, 22
FRAME_PX = 2
FRAME = (226, 38, 28)
INK = (20, 20, 20)
PAPER = (255, 255, 255)


def comparison(panels: Sequence[tuple[str, np.ndarray]], box: Box | None = None) -> Image.Image:
    """The same image in several versions, side by side: the whole of it above, a magnified detail below.

    The detail shows true pixels, magnified by a whole number. The whole image is scaled to the column's width.

    Args:
        panels: label and image (H,W,3 uint8, or H,W uint8 where it is grey) of each column, all of one size. A
            label may have several lines.
        box: the detail, marked by a frame in the image above; without one, the images stand alone.

    Raises:
        ValueError: no panel, images of different sizes, or a box that is not inside them.
    """
    sizes = {image.shape[:2] for _, image in panels}
    if len(sizes) != 1:
        raise ValueError(f"a comparison needs images of one size, not of {sorted(sizes)}")
    ((height, width),) = sizes
    if box is not None:
        left, top, box_width, box_height = box
        if not (0 <= left < left + box_width <= width and 0 <= top < top + box_height <= height):
            raise ValueError(f"box {box} is not inside an image of {width} x {height}")
        column_px = max(1, round(COLUMN_PX / box_width)) * box_width
    else:
        column_px = max(1, round(COLUMN_PX / width)) * width if width < COLUMN_PX else COLUMN_PX
    columns = [_column(Image.fromarray(image).convert("RGB"), box, column_px) for _, image in panels]
    labels = [_label(text, column_px) for text, _ in panels]
    return _stack([_row(labels, bottom=True), _row(columns)], GAP_PX // 2, margin=GAP_PX)


def detail_box(original: np.ndarray, scale: int = 4, versions: Sequence[np.ndarray] = ()) -> Box:
    """The region of an image that a comparison should magnify.

    It is where its versions differ most, if there are several, and else where downscaling by `scale` loses most.

    Args:
        original: H,W,3 or H,W uint8, with at least `scale` pixels each way.
        scale: the box begins and ends at multiples of it, so that each pixel of the low-resolution image is in
            it as a whole, or not at all.
        versions: of the same size.

    Returns:
        At most 72 pixels wide and 54 high, away from the border where the image is large enough.
    """
    rows, columns = original.shape[0] // scale, original.shape[1] // scale
    if not (rows and columns):
        raise ValueError(f"an image of {original.shape[1]} x {original.shape[0]} has no detail at scale {scale}")
    several = len(versions) > 1
    lumas = [np.asarray(Image.fromarray(one).convert("L"), np.float64) for one in (versions if several else [original])]
    blocks = np.stack([luma[: rows * scale, : columns * scale].reshape(rows, scale, columns, scale) for luma in lumas])
    # The deviation and not the variance: much texture rather than one hard edge.
    lost = blocks.std(axis=0).mean(axis=(1, 3)) if several else blocks[0].std(axis=(1, 3))

    width = max(1, min(DETAIL_PX // scale, max(32 // scale, columns // 4), columns))
    height = max(1, min(rows, width * 3 // 4))
    total = np.pad(lost.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    score = total[height:, width:] - total[:-height, width:] - total[height:, :-width] + total[:-height, :-width]
    margin_y, margin_x = (min(n // 10, (m - 1) // 2) for n, m in zip((rows, columns), score.shape, strict=True))
    inside = score[margin_y : score.shape[0] - margin_y, margin_x : score.shape[1] - margin_x]
    y, x = np.unravel_index(inside.argmax(), inside.shape)
    return (int(x) + margin_x) * scale, (int(y) + margin_y) * scale, width * scale, height * scale


def grid(rows: Sequence[tuple[str, Image.Image]]) -> Image.Image:
    """One page of comparisons, one below the other, each under its title.

    Raises:
        ValueError: no row.
    """
    if not rows:
        raise ValueError("a page needs at least one comparison")
    width = max(picture.width for _, picture in rows)
    parts = []
    for title, picture in rows:
        line = Image.new("RGB", (width, TITLE_PX + 2 * GAP_PX), PAPER)
        draw = ImageDraw.Draw(line)
        draw.text((GAP_PX, line.height), title, INK, ImageFont.load_default(TITLE_PX), anchor="ld")
        parts += [line, picture]
    return _stack(parts, 0)


def _column(image: Image.Image, box: Box | None, column_px: int) -> Image.Image:
    """The whole image over its detail."""
    # A panorama's column is as wide as any other; a tower's is not endlessly high.
    ratio = min(column_px / image.width, 1.5 * column_px / image.height)
    size = (max(1, round(image.width * ratio)), max(1, round(image.height * ratio)))
    whole = image.resize(size, Image.Resampling.NEAREST if ratio.is_integer() else Image.Resampling.LANCZOS)
    if box is None:
        return _centred(whole, column_px)
    left, top, width, height = box
    corners = [left * ratio, top * ratio, (left + width) * ratio, (top + height) * ratio]
    _frame(whole, [round(corner) for corner in corners])
    factor = column_px // width
    detail = image.crop((left, top, left + width, top + height))
    detail = detail.resize((width * factor, height * factor), Image.Resampling.NEAREST)
    return _stack([_centred(whole, column_px), detail], GAP_PX // 2)


def _frame(picture: Image.Image, corners: list[int]) -> None:
    """Draw a frame around a region, just outside it."""
    left, top, right, bottom = corners
    around = (left - FRAME_PX, top - FRAME_PX, right + FRAME_PX - 1, bottom + FRAME_PX - 1)
    ImageDraw.Draw(picture).rectangle(around, outline=FRAME, width=FRAME_PX)


def _label(text: str, width_px: int) -> Image.Image:
    """Text, centred, broken into lines where it is wider than its column."""
    font = ImageFont.load_default(FONT_PX)
    lines: list[str] = []
    for paragraph in text.split("\n"):
        line = ""
        for word in paragraph.split(" "):
            longer = f"{line} {word}" if line else word
            if line and font.getlength(longer) > width_px:
                lines.append(line)
                longer = word
            line = longer
        lines.append(line)
    label = Image.new("RGB", (width_px, (FONT_PX + 5) * len(lines)), PAPER)
    place = (width_px / 2, label.height - FONT_PX // 3)
    ImageDraw.Draw(label).multiline_text(place, "\n".join(lines), INK, font, anchor="md", align="center")
    return label


def _centred(picture: Image.Image, width_px: int) -> Image.Image:
    if picture.width == width_px:
        return picture
    page = Image.new("RGB", (width_px, picture.height), PAPER)
    page.paste(picture, ((width_px - picture.width) // 2, 0))
    return page


def _row(pictures: Sequence[Image.Image], *, bottom: bool = False) -> Image.Image:
    height = max(picture.height for picture in pictures)
    width = sum(picture.width for picture in pictures) + GAP_PX * (len(pictures) - 1)
    page, x = Image.new("RGB", (width, height), PAPER), 0
    for picture in pictures:
        page.paste(picture, (x, height - picture.height if bottom else 0))
        x += picture.width + GAP_PX
    return page


def _stack(pictures: Sequence[Image.Image], gap_px: int, *, margin: int = 0) -> Image.Image:
    width = max(picture.width for picture in pictures) + 2 * margin
    height = sum(picture.height for picture in pictures) + gap_px * (len(pictures) - 1) + 2 * margin
    page, y = Image.new("RGB", (width, height), PAPER), margin
    for picture in pictures:
        page.paste(picture, (margin, y))
        y += picture.height + gap_px
    return page
