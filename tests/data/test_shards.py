"""Shards come out the same, byte for byte, and say what was left out."""

import hashlib

import numpy as np
import pytest
import webdataset
from PIL import Image

from srcluster.data.pairs import Pair
from srcluster.data.photos import find
from srcluster.data.samples import decode_picture
from srcluster.data.shards import MARGIN, Manifest, Packing, load_manifest, pack
from srcluster.data.stream import _Samples
from srcluster.errors import UserError


@pytest.fixture
def folder(tmp_path):
    source = tmp_path / "photos"
    source.mkdir()
    random = np.random.default_rng(0)
    for number in range(10):
        Image.fromarray(random.integers(0, 256, (90, 120, 3), dtype=np.uint8)).save(source / f"{number}.png")
    return source


PACKING = Packing(source="ten", crop=48, crops_per_photo=2, shard_bytes=50_000)


def test_packing_twice_gives_the_same_bytes(folder, tmp_path):
    photos = find(str(folder))
    first = pack(photos, PACKING, str(tmp_path / "a"))
    # Shard by shard, the last first: what another number of workers would do.
    second = pack(photos, PACKING, str(tmp_path / "b"), run=lambda make, calls: [make(*call) for call in calls[::-1]])
    assert first == second
    assert len(first.shards) > 2
    for shard in first.shards:
        content = (tmp_path / "b" / shard.name).read_bytes()
        assert content == (tmp_path / "a" / shard.name).read_bytes()
        assert (len(content), hashlib.sha256(content).hexdigest()) == (shard.bytes, shard.sha256)


def test_the_seed_decides_where_crops_are_cut(folder, tmp_path):
    photos = find(str(folder))
    digests = {
        pack(photos, PACKING.model_copy(update={"seed": seed}), str(tmp_path / str(seed))).shards[0].sha256
        for seed in (0, 1)
    }
    assert len(digests) == 2


@pytest.mark.parametrize("format", ["tiff", "webp", "png", "npy"])
def test_lossless_formats_keep_every_pixel(folder, tmp_path, format):
    packing = Packing(source="ten", crop=None, format=format)
    manifest = pack(find(str(folder)), packing, str(tmp_path / "shards"))
    samples = _Samples(str(tmp_path / "shards"), manifest, None, None).shard(0)
    for number in range(10):
        assert (decode_picture(*samples[number][0]) == np.asarray(Image.open(folder / f"{number}.png"))).all()


def test_crops_lie_on_the_grid_of_every_scale(folder, tmp_path):
    manifest = pack(find(str(folder)), PACKING, str(tmp_path / "shards"))
    samples = _Samples(str(tmp_path / "shards"), manifest, None, None).shard(0)
    photo = np.asarray(Image.open(folder / "0.png"))
    crop = decode_picture(*samples[0][0])
    assert crop.shape == (48 + 2 * MARGIN, 48 + 2 * MARGIN, 3)
    places = [
        (top, left)
        for top in range(0, 90 - 64 + 1)
        for left in range(0, 120 - 64 + 1)
        if (photo[top : top + 64, left : left + 64] == crop).all()
    ]
    assert len(places) == 1
    assert all(offset % 12 == 0 for offset in places[0])


def test_unusable_photographs_are_listed_and_end_nothing(folder, tmp_path):
    (folder / "3.png").write_bytes((folder / "3.png").read_bytes()[:500])
    Image.new("RGB", (50, 90)).save(folder / "4.png")
    manifest = pack(find(str(folder)), PACKING, str(tmp_path / "shards"), skip_share=0.5)
    assert manifest.samples == 16
    assert [(skip.photo, skip.reason) for skip in manifest.skipped] == [
        ("3.png", manifest.skipped[0].reason),
        ("4.png", "4.png is 50 x 90; each side must have 64 pixels or more"),
    ]
    assert "3.png is damaged or truncated" in manifest.skipped[0].reason
    assert load_manifest(str(tmp_path / "shards")) == manifest


def test_too_many_unusable_photographs(folder, tmp_path):
    for number in range(3):
        (folder / f"{number}.png").write_bytes(b"broken")
    with pytest.raises(UserError, match="3 of 10 photographs of ten can't be used, more than the 10% that may be"):
        pack(find(str(folder)), PACKING, str(tmp_path / "shards"))
    with pytest.raises(UserError, match="make the shards with python -m srcluster"):
        load_manifest(str(tmp_path / "shards"))


def test_a_manifest_of_something_else(tmp_path):
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(UserError, match="no manifest of version 1"):
        load_manifest(str(tmp_path))


def test_the_digest_names_the_content(folder, tmp_path):
    manifest = pack(find(str(folder)), PACKING, str(tmp_path / "shards"))
    assert Manifest.model_validate_json(manifest.encode()).digest() == manifest.digest()
    assert manifest.model_copy(update={"skipped": ()}).digest() == manifest.digest()
    assert manifest.model_copy(update={"shards": manifest.shards[1:]}).digest() != manifest.digest()


@pytest.mark.parametrize("format", ["tiff", "webp", "png", "jpg"])
@pytest.mark.parametrize("paired", [False, True])
def test_the_library_webdataset_reads_our_shards(folder, tmp_path, format, paired):
    """As it reads any: pictures by their ending, those of a pair as `png` and `lr.png`."""
    photos = find(str(folder))
    packing = Packing(source="ten", crop=None, format=format, shard_bytes=2 * 10**6)
    if paired:
        packing = packing.model_copy(update={"lr": "ten", "scale": 1})
        photos = [Pair(photo, photo, 1) for photo in photos]
    manifest = pack(photos, packing, str(tmp_path / "shards"))
    urls = [str(tmp_path / "shards" / shard.name) for shard in manifest.shards]
    samples = list(webdataset.WebDataset(urls, shardshuffle=False).decode("pil"))
    assert len(samples) == 10
    for sample, photo in zip(samples, photos, strict=True):
        pictures = [np.asarray(sample[field]) for field in (format, *([f"lr.{format}"] if paired else []))]
        if format != "jpg":
            original = photo.decode()
            assert all((picture == (original[0] if paired else original)).all() for picture in pictures)
