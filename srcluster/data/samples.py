"""The samples in the tar file of a shard: what packing writes, the stream reads and `pack --verify` checks."""

import io
import struct
import tarfile

import numpy as np
from PIL import Image

LR_FIELD = "lr."
"""What the ending of the LR picture of a pair begins with: `000000-000000.lr.tiff`."""

DAMAGES = (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError)
"""What decoders raise of bytes that are no picture."""

_PREDICTOR = 317
"""The TIFF tag of what is stored in place of the pixels."""


class Encoded(list[list[tuple[str, memoryview]]]):
    """The samples of a shard: of HR, and of pairs of LR too, the file's ending and its content, a view of the shard."""


def encode_picture(image: np.ndarray, format: str) -> bytes:
    """A picture as the content of a file."""
    buffer = io.BytesIO()
    match format:
        case "tiff":
            # Differences from pixel to pixel, in Zstandard: a quarter larger than WebP, and decoded twice as fast.
            Image.fromarray(image).save(buffer, "TIFF", compression="zstd", tiffinfo={_PREDICTOR: 2})
        case "webp":
            # Method 0 of 6: 9 % larger than method 4, and packed sixteen times as fast.
            Image.fromarray(image).save(buffer, "WEBP", lossless=True, quality=20, method=0)
        case "png":
            Image.fromarray(image).save(buffer, "PNG")
        case "npy":
            np.save(buffer, np.ascontiguousarray(image))
        case "jpg":
            Image.fromarray(image).save(buffer, "JPEG", quality=95, subsampling=0)
    return buffer.getvalue()


def decode_picture(ending: str, content: memoryview) -> np.ndarray:
    """H x W x 3 uint8; one of DAMAGES is raised if it is anything else."""
    if ending == "npy":
        image = np.load(io.BytesIO(content), allow_pickle=False)
    else:
        picture = Image.open(io.BytesIO(content), formats=[Image.registered_extensions()[f".{ending}"]])
        # To convert what is RGB already is to copy it.
        image = np.asarray(picture if picture.mode == "RGB" else picture.convert("RGB"))
    if image.dtype != np.uint8 or image.shape[2:] != (3,):
        raise ValueError(f"it is {image.dtype} of {image.shape}")
    return image


def read_samples(content: bytes, paired: bool) -> Encoded:
    """The samples of a tar file, with their LR if they are pairs."""
    view = memoryview(content)
    samples: dict[str, list[tuple[str, memoryview]]] = {}
    with tarfile.open(fileobj=io.BytesIO(content), mode="r:") as files:
        for file in files:
            key, _, field = file.name.partition(".")
            pictures, is_lr = samples.setdefault(key, []), field.startswith(LR_FIELD)
            if paired or not is_lr:
                ending = field.rpartition(".")[2]
                pictures.insert(is_lr, (ending, view[file.offset_data : file.offset_data + file.size]))
    return Encoded(samples.values())


def decode_sample(
    encoded: list[tuple[str, memoryview]], shortest_side: int, scale: int | None
) -> tuple[np.ndarray, ...]:
    """HR, and LR of pairs, whose scale it is: H x W x 3 uint8; one of DAMAGES is raised if they are anything else."""
    hr, *lr = (decode_picture(ending, content) for ending, content in encoded)
    if min(hr.shape[:2]) < shortest_side:
        raise ValueError(f"it is of {hr.shape}")
    if scale and [(height * scale, width * scale) for height, width, _ in (one.shape for one in lr)] != [hr.shape[:2]]:
        raise ValueError(f"HR is of {hr.shape}, and LR of {[picture.shape for picture in lr]}")
    return hr, *lr
