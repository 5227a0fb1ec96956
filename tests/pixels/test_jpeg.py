import io

import numpy as np
import pytest
import torch
from PIL import Image

from srcluster.pixels.jpeg import jpeg


def photograph(height: int, width: int) -> np.ndarray:
    """Smooth colours with edges and some grain: H x W x 3 uint8."""
    random = np.random.default_rng(0)
    y, x = np.mgrid[:height, :width] / 32
    planes = [np.sin(x + k) * np.cos(y * (k + 1) / 2) + (np.sin(3 * x + y) > 0.3) for k in range(3)]
    image = 128 + 50 * np.stack(planes, -1) + random.normal(0, 4, (height, width, 3))
    return image.clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("quality", [10, 30, 50, 75, 95, 100])
def test_it_loses_what_libjpeg_loses(quality):
    image = photograph(93, 75)
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=quality, subsampling="4:2:0")
    expected = np.asarray(Image.open(file)).astype(float)
    pixels = torch.tensor(image).permute(2, 0, 1) / 255
    compressed = jpeg(pixels, quality).permute(1, 2, 0).mul(255).numpy()
    assert np.abs(compressed - compressed.round()).max() < 1e-4
    assert np.abs(compressed - expected).mean() < 1 < np.abs(expected - image).mean() + 0.5


def test_grey_stays_grey():
    compressed = jpeg(torch.full((3, 17, 33), 100 / 255), 60)
    assert torch.equal(compressed, compressed[:1].expand(3, -1, -1))
