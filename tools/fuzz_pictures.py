"""Damaged pictures through the code of `pack` and `upscale`: nothing may crash, hang, or be decoded to other pixels.

    python tools/fuzz_pictures.py [--pictures 2000] [--seed 0] [--keep FOLDER]

Each of 40 small pictures, of every format and layout that is taken, has bytes changed, is cut, or is spliced with
another of its format. What is taken all the same is decoded by a second decoder (imagecodecs or Pillow, whichever is
not the first), and compared. The table says of each seed how many were taken, refused, alike, and not decoded by the
second; anything else is listed, and makes the exit status 1.
"""

import argparse
import faulthandler
import io
import multiprocessing
import random
import signal
import sys
import tarfile
import tempfile
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import tifffile
import torch
from PIL import Image, ImageDraw, ImageFilter

from srcluster.data.listing import list_pictures
from srcluster.data.shards import Packing, make_shard
from srcluster.upscale.enlarge import Job, enlarge

HANG_S = 20
Decode = Callable[[bytes], np.ndarray]


def scene(channels: int = 3, dtype: type = np.uint8) -> np.ndarray:
    """A 24 x 30 picture with edges, gradients, and all low bits in use."""
    image = Image.new("RGB", (30, 24), (200, 120, 40))
    ImageDraw.Draw(image).ellipse((4, 3, 22, 19), fill=(20, 90, 220))
    smooth = np.asarray(image.filter(ImageFilter.GaussianBlur(2))).astype(float)
    full = np.iinfo(dtype).max
    values = smooth / 255 * full + np.random.default_rng(0).normal(0, full / 60, smooth.shape)
    pixels = np.clip(values, 0, full).astype(dtype)
    alpha = np.broadcast_to(np.linspace(full // 4, full, 30).astype(dtype), (24, 30))
    grey = pixels[..., 1]
    return np.ascontiguousarray({1: grey, 3: pixels, 4: np.dstack([pixels, alpha])}[channels])


def pillow(kind: str, image: Any = None, mode: str = "", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image = Image.fromarray(scene() if image is None else image)
    (image.convert(mode) if mode else image).save(buffer, kind, **options)
    return buffer.getvalue()


def tiff(pixels: np.ndarray, **options: Any) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, pixels, metadata=None, **options)
    return buffer.getvalue()


def seeds() -> dict[str, tuple[str, bytes]]:
    """Format and content of each, by what it is."""
    turned = Image.Exif()
    turned[0x0112], turned[0x010F] = 6, "a camera"
    deep, deep_alpha, deep_grey = (scene(channels, np.uint16) for channels in (3, 4, 1))
    palette = Image.fromarray(scene()).quantize(12)
    frames = [Image.fromarray(scene()), Image.fromarray(255 - scene())]
    animation = io.BytesIO()
    frames[0].save(animation, "GIF", save_all=True, append_images=frames[1:])
    transparent = io.BytesIO()
    palette.save(transparent, "PNG", transparency=3)
    pgm = b"P2\n# a comment\n30 24\n1000\n" + " ".join(map(str, deep_grey.ravel() // 66)).encode()
    rgb = {"photometric": "rgb"}
    return {
        "png rgb": ("png", pillow("PNG")),
        "png rgba": ("png", pillow("PNG", scene(4))),
        "png grey": ("png", pillow("PNG", scene(1))),
        "png 1 bit": ("png", pillow("PNG", mode="1")),
        "png palette, transparent": ("png", transparent.getvalue()),
        "png rgb 16": ("png", imagecodecs.png_encode(deep)),
        "png rgba 16": ("png", imagecodecs.png_encode(deep_alpha)),
        "png grey 16": ("png", imagecodecs.png_encode(deep_grey)),
        "jpeg": ("jpg", pillow("JPEG", quality=90)),
        "jpeg 4:4:4, progressive": ("jpg", pillow("JPEG", subsampling=0, progressive=True)),
        "jpeg grey": ("jpg", pillow("JPEG", scene(1))),
        "jpeg cmyk": ("jpg", pillow("JPEG", mode="CMYK")),
        "jpeg turned": ("jpg", pillow("JPEG", exif=turned)),
        "tiff": ("tif", pillow("TIFF")),
        "tiff lzw": ("tif", pillow("TIFF", compression="tiff_lzw")),
        "tiff deflate, predicted": ("tif", tiff(scene(), compression="deflate", predictor=True, **rgb)),
        "tiff packbits": ("tif", pillow("TIFF", compression="packbits")),
        "tiff zstd": ("tif", pillow("TIFF", compression="zstd")),
        "tiff jpeg": ("tif", pillow("TIFF", compression="jpeg")),
        "tiff fax": ("tif", pillow("TIFF", mode="1", compression="group4")),
        "tiff palette": ("tif", pillow("TIFF", np.asarray(palette.convert("RGB")), mode="P")),
        "tiff rgb 16": ("tif", tiff(deep, rowsperstrip=8, **rgb)),
        "tiff rgb 16, big endian": ("tif", tiff(deep, byteorder=">", compression="lzw", **rgb)),
        "tiff rgb 16, planar": ("tif", tiff(np.moveaxis(deep, 2, 0), planarconfig="separate", **rgb)),
        "tiff rgb 16, tiled": ("tif", tiff(deep, tile=(16, 16), compression="deflate", bigtiff=True, **rgb)),
        "tiff grey 16, white is zero": ("tif", tiff(deep_grey, photometric="miniswhite")),
        "tiff rgba 16, premultiplied": ("tif", tiff(deep_alpha // 2, extrasamples=["assocalpha"], **rgb)),
        "tiff cmyk 16": ("tif", tiff(deep_alpha, photometric="separated")),
        "webp": ("webp", pillow("WEBP", quality=90)),
        "webp rgba, lossless": ("webp", pillow("WEBP", scene(4), lossless=True)),
        "gif": ("gif", pillow("GIF")),
        "gif, animated": ("gif", animation.getvalue()),
        "bmp": ("bmp", pillow("BMP")),
        "bmp palette": ("bmp", pillow("BMP", mode="P")),
        "ppm": ("ppm", pillow("PPM")),
        "ppm 16": ("ppm", b"P6 30 24 65535\n" + deep.astype(">u2").tobytes()),
        "pgm 10 bits, ascii": ("pgm", pgm),
        "jpeg 2000": ("jp2", pillow("JPEG2000")),
        "jpeg 2000 rgb 16": ("jp2", imagecodecs.jpeg2k_encode(deep, codecformat="jp2")),
        "avif": ("avif", pillow("AVIF", quality=90)),
    }


def damaged(content: bytes, other: bytes, dice: random.Random) -> bytes:
    """With bytes changed, cut off, left out or taken from another file; half of the time near the beginning."""
    data = bytearray(content)
    reach = len(data) if dice.random() < 0.5 else min(len(data), 200)
    at = dice.randrange(reach)
    match dice.choice(["bits", "bytes", "cut", "gap", "splice"]):
        case "bits":
            for _ in range(dice.randint(1, 4)):
                data[dice.randrange(reach)] ^= 1 << dice.randrange(8)
        case "bytes":
            for _ in range(dice.randint(1, 12)):
                data[dice.randrange(reach)] = dice.choice([0, 1, 127, 128, 255, dice.randrange(256)])
        case "cut":
            del data[at:]
        case "gap":
            del data[at : at + dice.randint(1, 40)]
        case "splice":
            start = dice.randrange(len(other))
            piece = other[start : start + dice.randint(1, 200)]
            data[at : at + len(piece)] = piece
    return bytes(data)


def second(content: bytes, ending: str) -> np.ndarray:
    """What another decoder makes of a file that was taken: H x W x C of 8 bits, colours before alpha."""
    match ending:
        case "png" if content[24] != 16:
            pixels = imagecodecs.png_decode(content)
        case "jpg" if Image.open(io.BytesIO(content)).mode != "CMYK":
            pixels = imagecodecs.jpeg_decode(content)
        case "webp":
            pixels = imagecodecs.webp_decode(content)
        case "gif":
            pixels = np.squeeze(imagecodecs.gif_decode(content))
        case "bmp":
            pixels = imagecodecs.bmp_decode(content, asrgb=True)
        case "jp2" if imagecodecs.jpeg2k_decode(content).dtype == np.uint8:
            pixels = imagecodecs.jpeg2k_decode(content)
        case "avif":
            pixels = imagecodecs.avif_decode(content)
            # Where the stream's depth is another than the file says.
            pixels = (pixels >> 2).astype(np.uint8) if pixels.dtype == np.uint16 else pixels
        case "tif":
            pixels = second_tiff(content)
        case _:
            pixels = shown(Image.open(io.BytesIO(content), formats=["PNG", "JPEG", "JPEG2000", "PPM"]))
    return pixels.reshape(*pixels.shape[:2], -1)


def shown(image: Image.Image) -> np.ndarray:
    """By Pillow, in 8 bits."""
    if image.mode.startswith("I"):
        return (np.asarray(image).astype(int) >> 8).astype(np.uint8)
    mode = ("L" if image.mode in ("1", "L", "LA") else "RGB") + ("A" if image.has_transparency_data else "")
    return np.asarray(image.convert(mode))


def second_tiff(content: bytes) -> np.ndarray:
    """By Pillow's libtiff in 8 bits or fewer, and otherwise by tifffile's own decoders, with what the tags mean."""
    try:
        image = Image.open(io.BytesIO(content), formats=["TIFF"])
    except OSError:
        raise ValueError("Pillow does not understand it") from None
    tags = image.tag_v2
    if (max(tags.get(258, (1,))) <= 8 and image.mode != "RGBA") or tags.get(262) == 5:
        return shown(image)
    if tags.get(262) == 2 and len(tags.get(258)) > 3 and 338 not in tags:
        raise ValueError("Pillow read no ExtraSamples")
    values = tifffile.imread(io.BytesIO(content)).astype(float) / 65535
    values = np.moveaxis(values, 0, 2) if values.ndim == 3 and values.shape[2] > 5 else np.atleast_3d(values)
    match tags.get(262):
        case 0:
            values[..., 0] = 1 - values[..., 0]
        case 2 if tags.get(338, (2,))[0] == 0:
            values = values[..., :3]
        case 2 if tags.get(338, (2,))[0] == 1:
            values[..., :3] = np.minimum(values[..., :3] / np.maximum(values[..., 3:4], 1e-9), 1)
    return np.rint(values * 255).astype(np.uint8)


def unlike(made: np.ndarray, expected: np.ndarray, slack: int) -> str:
    """How a picture differs from another, in any of the eight ways to turn it; empty where it does not."""
    best = 256
    for turns in range(4):
        for flip in (False, True):
            turned = np.rot90(expected[:, ::-1] if flip else expected, turns)
            if turned.shape == made.shape:
                # Where nothing is seen, any colour will do.
                seen = made[..., -1:] > 0 if made.shape[2] in (2, 4) else True
                # Of JPEG 2000 in 16 bits, Pillow rounds 65408 and more up to 256, which in a byte is 0.
                seen = seen & ((turned > 0) | (made < 255))
                best = min(best, int((np.abs(made.astype(int) - turned) * seen).max()))
    return "" if best <= slack else f"{made.shape} differs by {best} from {expected.shape}"


class Same(torch.nn.Module):
    """A network that changes nothing."""

    scale, reach = 1, 0

    def forward(self, lr: torch.Tensor) -> torch.Tensor:
        return lr


def outcome(path: Path, ending: str, folder: Path) -> list[str]:
    """What becomes of one file: `taken` or `refused` by each verb, `alike`, or what is wrong."""
    (photo,) = list_pictures(str(path.parent)) or [None]
    if photo is None:
        return ["refused"]
    packed = make_shard([photo], 0, Packing(source="fuzz", crop=None, format="npy"), str(folder / "shards"))
    job = Job(photo, str(folder / "made.png"))
    enlarged = enlarge(Same().eval(), job, 1e8, False)
    taken = [] if enlarged.error else ["taken"]
    content = path.read_bytes()
    found = ["refused"] if enlarged.error else taken
    pictures = []
    if not enlarged.error:
        pixels = imagecodecs.png_decode((folder / "made.png").read_bytes())
        pixels = np.rint(pixels / 257).astype(np.uint8) if pixels.dtype == np.uint16 else pixels
        pictures.append(pixels.reshape(*pixels.shape[:2], -1))
    if packed.shard:
        with tarfile.open(folder / "shards" / packed.shard.name) as tar:
            pictures.append(np.load(io.BytesIO(tar.extractfile(tar.getmembers()[0]).read())))
        if enlarged.error:
            found.append(f"packed, but not enlarged: {enlarged.error}")
    if pictures:
        try:
            expected = second(content, ending)
        except Exception as error:
            return [*found, "second refuses", f"_{type(error).__name__}: {str(error)[:80]}"]
        for pixels in pictures:
            same = expected
            if pixels.shape[2] == 3 and expected.shape[2] in (1, 2):
                same = np.repeat(expected[..., :1], 3, axis=2)
            elif pixels.shape[2] == 3:
                same = expected[..., :3]
            elif pixels.shape[2] == 1 and expected.shape[2] == 3:
                same = expected[..., :1]
            # Rounding of 16 bits to 8, of premultiplied alpha, and of YCbCr.
            if difference := unlike(pixels, same, 2):
                return [*found, difference]
        found.append("alike")
    return found


def child(name: str, ending: str, content: bytes, others: list[bytes], count: int, seed: int, keep: Path, pipe) -> None:
    faulthandler.enable()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    dice = random.Random(f"{seed} {name}")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "in" / f"a.{ending}"
        path.parent.mkdir()
        for number in range(count):
            data = content if number == 0 else damaged(content, dice.choice(others), dice)
            path.write_bytes(data)
            (keep / f"{name.replace(' ', '_')}-{number}.{ending}").write_bytes(data)
            # Ends this process if nothing else does.
            signal.alarm(HANG_S)
            try:
                found = outcome(path, ending, Path(folder))
            except Exception:
                found = ["TRACEBACK " + traceback.format_exc()[-400:]]
            signal.alarm(0)
            pipe.send((number, found))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="keep the pictures here")
    asked = parser.parse_args()
    all_seeds = seeds()
    assert len(all_seeds) == 40, len(all_seeds)
    keep = asked.keep or Path(tempfile.mkdtemp())
    keep.mkdir(parents=True, exist_ok=True)
    columns = ("taken", "refused", "alike", "second refuses")
    print(f"{'seed':32}" + "".join(f"{column:>16}" for column in columns))
    total, wrong, reasons = Counter[str](), [], Counter[str]()
    for name, (ending, content) in all_seeds.items():
        others = [data for kind, data in all_seeds.values() if kind == ending]
        count = asked.pictures // len(all_seeds)
        reader, writer = multiprocessing.Pipe(duplex=False)
        call = (name, ending, content, others, count, asked.seed, keep, writer)
        process = multiprocessing.Process(target=child, args=call)
        process.start()
        writer.close()
        counts, last = Counter[str](), -1
        while True:
            try:
                last, found = reader.recv()
            except EOFError:
                break
            counts.update(word for word in found if word in columns)
            reasons.update(f"{name}: {word[1:]}" for word in found if word.startswith("_"))
            wrong += [f"{name} {last}: {word}" for word in found if word not in columns and not word.startswith("_")]
        process.join()
        if last != count - 1:
            wrong.append(f"{name} {last + 1}: the process ended with {process.exitcode}: it hung or crashed")
        total.update(counts)
        print(f"{name:32}" + "".join(f"{counts[column]:16}" for column in columns), flush=True)
    print(f"{'all':32}" + "".join(f"{total[column]:16}" for column in columns))
    print(*(f"  {count} {reason}" for reason, count in reasons.most_common()), sep="\n")
    print(f"{len(wrong)} wrong", *wrong, sep="\n")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
