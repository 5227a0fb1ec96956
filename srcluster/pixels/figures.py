"""Pictures of a comparison, as papers on super-resolution print them: Pillow alone, pure functions."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

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
        panels: Label and image (H x W x 3 uint8, or H x W uint8 where it is grey) of each column, all of one size. A
            label may have several lines.
        box: The detail, marked by a frame in the image above; without one, the images stand alone.

    Raises:
        ValueError: No panel, images of different sizes, or a box that is not inside them.
    """
    sizes = {image.shape[:2] for _, image in panels}
    if len(sizes) != 1:
        raise ValueError(f"a comparison needs images of one size, not of {sorted(sizes)}")
    ((height, width),) = sizes
    widest_px = min(width, COLUMN_PX)
    if box is not None:
        left, top, widest_px, box_height = box
        if not (0 <= left < left + widest_px <= width and 0 <= top < top + box_height <= height):
            raise ValueError(f"box {box} is not inside an image of {width} x {height}")
    column_px = max(1, round(COLUMN_PX / widest_px)) * widest_px
    columns = [_column(Image.fromarray(image).convert("RGB"), box, column_px) for _, image in panels]
    labels = [_label(text, column_px) for text, _ in panels]
    return ImageOps.expand(_stack([_row(labels, bottom=True), _row(columns)], GAP_PX // 2), GAP_PX, PAPER)


def detail_box(original: np.ndarray, scale: int = 4, versions: Sequence[np.ndarray] = ()) -> Box:
    """The region of an image that a comparison should magnify.

    It is where its versions differ most, if there are several, and else where downscaling by `scale` loses most.

    Args:
        original: H x W x 3 or H x W uint8, with at least `scale` pixels each way.
        scale: The box begins and ends at multiples of it, so that it holds whole pixels of the low-resolution image.
        versions: Of the same size.

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
    """One page of comparisons, one below the other, each under its title; ValueError without any."""
    if not rows:
        raise ValueError("a page needs at least one comparison")
    width = max(picture.width for _, picture in rows)
    parts = []
    for title, picture in rows:
        line = Image.new("RGB", (width, TITLE_PX + 2 * GAP_PX), PAPER)
        position = (GAP_PX, line.height)
        ImageDraw.Draw(line).text(position, title, INK, ImageFont.load_default(TITLE_PX), anchor="ld")
        parts += [line, picture]
    return _stack(parts, 0)


def _column(image: Image.Image, box: Box | None, column_px: int) -> Image.Image:
    """The whole image over its detail."""
    # A panorama's column is as wide as any other; a tower's is not endlessly high.
    ratio = min(column_px / image.width, 1.5 * column_px / image.height)
    size = (max(1, round(image.width * ratio)), max(1, round(image.height * ratio)))
    whole = image.resize(size, Image.Resampling.NEAREST if ratio.is_integer() else Image.Resampling.LANCZOS)
    parts = []
    if box is not None:
        left, top, width, height = box
        detail = image.crop((left, top, left + width, top + height))
        factor = column_px // width
        parts.append(detail.resize((width * factor, height * factor), Image.Resampling.NEAREST))
        start, stop = (
            (round(left * ratio), round(top * ratio)),
            (round((left + width) * ratio), round((top + height) * ratio)),
        )
        # The frame is just outside the detail.
        around = [*(edge - FRAME_PX for edge in start), *(edge + FRAME_PX - 1 for edge in stop)]
        ImageDraw.Draw(whole).rectangle(around, outline=FRAME, width=FRAME_PX)
    free_px = column_px - whole.width
    whole = ImageOps.expand(whole, (free_px // 2, 0, free_px - free_px // 2, 0), PAPER)
    return _stack([whole, *parts], GAP_PX // 2)


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
    position = (width_px / 2, label.height - FONT_PX // 3)
    ImageDraw.Draw(label).multiline_text(position, "\n".join(lines), INK, font, anchor="md", align="center")
    return label


def _row(pictures: Sequence[Image.Image], *, bottom: bool = False) -> Image.Image:
    height = max(picture.height for picture in pictures)
    width = sum(picture.width for picture in pictures) + GAP_PX * (len(pictures) - 1)
    page, x = Image.new("RGB", (width, height), PAPER), 0
    for picture in pictures:
        page.paste(picture, (x, height - picture.height if bottom else 0))
        x += picture.width + GAP_PX
    return page


def _stack(pictures: Sequence[Image.Image], gap_px: int) -> Image.Image:
    width = max(picture.width for picture in pictures)
    height = sum(picture.height for picture in pictures) + gap_px * (len(pictures) - 1)
    page, y = Image.new("RGB", (width, height), PAPER), 0
    for picture in pictures:
        page.paste(picture, (0, y))
        y += picture.height + gap_px
    return page
