"""Pairs of HR and LR: matched by name, packed and cut alike, trained on at their scale."""

from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from srcluster.data.pairs import Pair, match, scale_of
from srcluster.data.photos import find
from srcluster.data.pictures import PhotoError
from srcluster.data.shards import Packing, load_manifest, pack
from srcluster.data.stream import Stream
from srcluster.data.verification import verify
from srcluster.errors import UserError
from srcluster.recipe import Data, Paired, recipe_from


def pictures(folder: Path, scale: int, ending: str = "png", names: str = "{:04}x{}") -> tuple[str, str]:
    """Folders HR and LR of pictures whose values say where a pixel is: HR // scale is LR."""
    for number in range(6):
        height, width = 60 + 8 * scale, 40 + 10 * scale
        rows, columns = np.mgrid[: height * scale, : width * scale] // scale
        hr = np.stack([rows, columns, np.full_like(rows, number * 30)], 2).astype(np.uint8)
        for kind, image, name in (
            ("HR", hr, f"{number:04}.png"),
            ("LR", hr[::scale, ::scale], f"{names.format(number, scale)}.{ending}"),
        ):
            (folder / kind / "sub").mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(folder / kind / "sub" / name)
    return str(folder / "HR"), str(folder / "LR")


def packed(hr: str, lr: str, to: Path, **settings) -> str:
    matched = match(find(hr), find(lr))
    scale = scale_of(matched)
    packing = Packing(**{"source": hr, "lr": lr, "scale": scale, "shard_bytes": 30_000, **settings})
    pack([Pair(*pair, scale) for pair in matched], packing, str(to), skip_share=1)
    return str(to)


@pytest.mark.parametrize("scale", [1, 2, 5])
@pytest.mark.parametrize("crop", [None, 40])
def test_patches_of_pairs_are_cut_alike(tmp_path, scale, crop):
    url = packed(*pictures(tmp_path, scale), tmp_path / "shards", crop=crop, crops_per_photo=2)
    manifest, checked = verify(url)
    assert manifest.samples == (12 if crop else 6)
    assert not any(one.fault for one in checked)
    stream = Stream(Data(shards=url, patch=8 * scale, batch=5), scale=scale, seed=0, degradation=Paired(kind="paired"))
    for hr, lr in islice(stream.batches(), 8):
        assert hr.shape[2:] == (8 * scale, 8 * scale)
        assert np.array_equal(hr[..., ::scale, ::scale], lr)
        assert np.array_equal(hr, lr.repeat_interleave(scale, 2).repeat_interleave(scale, 3))


def test_the_hr_of_pairs_can_be_trained_on_alone(tmp_path):
    url = packed(*pictures(tmp_path, 2), tmp_path / "shards", crop=None)
    (hr,) = next(Stream(Data(shards=url, patch=32, batch=4), scale=2, seed=0).batches())
    assert hr.shape == (4, 3, 40, 40)


@pytest.mark.parametrize(("names", "ending"), [("{:04}", "png"), ("{:04}_X{}", "bmp"), ("{:04}x{}", "webp")])
def test_names_are_matched(tmp_path, names, ending):
    hr, lr = pictures(tmp_path, 3, ending, names)
    matched = match(find(hr), find(lr))
    assert [Path(small.name).name[:4] for _, small in matched] == [Path(large.name).stem for large, _ in matched]
    assert scale_of(matched) == 3


def test_pairs_that_do_not_fit_are_listed(tmp_path):
    hr, lr = pictures(tmp_path, 2)
    (tmp_path / "LR" / "sub" / "0001x2.png").unlink()
    Image.new("RGB", (30, 38)).save(tmp_path / "LR" / "sub" / "0003x2.png")
    (tmp_path / "LR" / "sub" / "0004x2.png").write_bytes(b"no picture")
    manifest = load_manifest(packed(hr, lr, tmp_path / "shards", crop=None))
    assert manifest.samples == 3
    assert [skipped.reason for skipped in manifest.skipped[:2]] == [
        "sub/0001.png has no LR picture of its name",
        "sub/0003.png is 120 x 152 and its LR picture sub/0003x2.png is 30 x 38, not 60 x 76 as at x2",
    ]
    assert "0004x2.png" in manifest.skipped[2].reason


def test_the_first_pair_may_be_one_that_does_not_fit(tmp_path):
    hr, lr = pictures(tmp_path, 2)
    Image.new("RGB", (50, 70)).save(tmp_path / "LR" / "sub" / "0000x2.png")
    assert scale_of(match(find(hr), find(lr))) == 2


def test_hr_is_cut_to_what_lr_shows(tmp_path):
    for kind, size in (("HR", (83, 62)), ("LR", (20, 15))):
        (tmp_path / kind).mkdir()
        Image.new("RGB", size).save(tmp_path / kind / "a.png")
    ((hr, lr),) = match(find(str(tmp_path / "HR")), find(str(tmp_path / "LR")))
    assert scale_of([(hr, lr)]) == 4
    assert [image.shape for image in Pair(hr, lr, 4).decode()] == [(60, 80, 3), (15, 20, 3)]


def test_sources_that_are_no_pairs(tmp_path):
    hr, lr = pictures(tmp_path, 2)
    with pytest.raises(PhotoError, match=r"no LR picture has the name of an HR picture, as sub/0000.png and"):
        match(find(hr), find("wheels"))
    (tmp_path / "odd" / "sub").mkdir(parents=True)
    Image.new("RGB", (50, 70)).save(tmp_path / "odd" / "sub" / "0000.png")
    with pytest.raises(PhotoError, match=r"sub/0000.png is 120 x 152 and its LR picture 50 x 70: the first must be a"):
        scale_of(match(find(hr), find(str(tmp_path / "odd"))))
    Image.new("RGB", (60, 76)).save(tmp_path / "LR" / "sub" / "0000.png")
    with pytest.raises(PhotoError, match=r"sub/0000.png and sub/0000x2.png are both the LR picture of sub/0000"):
        match(find(hr), find(lr))


def test_shards_of_another_scale_or_without_lr(tmp_path):
    hr, lr = pictures(tmp_path, 2)
    url = packed(hr, lr, tmp_path / "shards", crop=None)
    data = Data(shards=url, patch=16, batch=2)
    with pytest.raises(
        UserError, match=r"has pairs of scale 2, and degradation.kind: paired trains on pairs of scale 4"
    ):
        Stream(data, scale=4, seed=0, degradation=Paired(kind="paired"))
    plain = str(tmp_path / "plain")
    pack(find(hr), Packing(source=hr, crop=None), plain)
    with pytest.raises(UserError, match="has no LR pictures"):
        Stream(data.model_copy(update={"shards": plain}), scale=2, seed=0, degradation=Paired(kind="paired"))


def test_what_is_no_pair_has_the_manifest_that_it_had():
    assert "lr" not in Packing(source="a").model_dump()
    assert '"scale"' not in Packing(source="a").model_dump_json()
    assert Packing(source="a", lr="b", scale=3, crop=96).model_dump()["scale"] == 3


def test_scales_are_for_pairs():
    values = {"name": "a", "steps": 1, "model": {"kind": "srcnn"}, "scale": 1}
    assert recipe_from(values, {"degradation.kind": "paired"}).scale == 1
    with pytest.raises(UserError, match=r"scale is 2, 3, 4 or 8, not 1, but for degradation.kind: paired"):
        recipe_from(values)
