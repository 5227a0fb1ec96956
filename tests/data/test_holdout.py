"""Photographs that are held out of shards: the same whoever packs, in no shard, and what weights are chosen by."""

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from srcluster.data import benchmarks, shards
from srcluster.data.holdout import held_out, hold_out
from srcluster.data.photos import find
from srcluster.data.shards import Manifest, Packing, load_manifest
from srcluster.data.verification import verify
from srcluster.errors import UserError
from srcluster.pixels.resize import imresize
from srcluster.recipe import recipe_from
from srcluster.train.settings import resolve_recipe


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for number in range(8):
        noise = np.random.default_rng(number).integers(0, 256, (10, 10, 3), dtype=np.uint8)
        Image.fromarray(imresize(noise, 6)).save(folder / f"{number}.png")
    Image.new("RGB", (8, 8)).save(folder / "tiny.png")
    return folder


def packing(holdout: int, **changes) -> Packing:
    return Packing(source="photos", crop=None, min_side=16, format="png", shard_bytes=1, holdout=holdout, **changes)


def pack(photos, packing: Packing, url: str, **options) -> Manifest:
    rest, held = hold_out(photos, packing, url)
    return shards.pack(rest, packing, url, holdout=held, **options)


def samples(url: str) -> set[bytes]:
    found = set()
    for path in Path(url).glob("*.tar"):
        with tarfile.open(path) as archive:
            contents = [archive.extractfile(member).read() for member in archive]
        found |= {np.asarray(Image.open(io.BytesIO(content))).tobytes() for content in contents}
    return found


def test_what_is_held_out_is_in_no_shard_and_the_same_for_any_workers(photos, tmp_path):
    one, other = str(tmp_path / "one"), str(tmp_path / "other")
    manifest = pack(find(str(photos)), packing(3), one, skip_share=0.5)
    backwards = pack(
        *(find(str(photos)), packing(3), other), skip_share=0.5, run=lambda f, calls: [f(*call) for call in calls[::-1]]
    )
    assert manifest == backwards == load_manifest(one)
    assert [held.name for held in manifest.holdout] == [f"validation/{i:06d}.png" for i in range(3)]
    assert [skipped.photo for skipped in manifest.skipped] == ["tiny.png"]
    for held in manifest.holdout:
        pixels = np.asarray(Image.open(Path(one, held.name)))
        assert (pixels == np.asarray(Image.open(photos / held.photo))).all()
        assert pixels.tobytes() not in samples(one)
    assert len(samples(one)) == manifest.samples == 5
    of_another_seed = pack(find(str(photos)), packing(3, seed=1), other, skip_share=0.5).holdout
    assert {held.photo for held in of_another_seed} != {held.photo for held in manifest.holdout}


def test_a_held_out_picture_that_is_damaged_is_found(photos, tmp_path):
    pack(find(str(photos)), packing(2), str(tmp_path), skip_share=0.5)
    (tmp_path / "validation/000001.png").write_bytes(b"")
    assert [(one.name, one.fault) for one in verify(str(tmp_path))[1] if one.fault] == [
        ("validation/000001.png", "has another SHA-256 than its manifest says: it was damaged or replaced")
    ]


def test_shards_without_a_holdout_are_as_they_were(photos, tmp_path):
    manifest = pack(find(str(photos)), packing(0), str(tmp_path), skip_share=0.5)
    assert b"holdout" not in manifest.encode()
    assert held_out(str(tmp_path)) == held_out(str(tmp_path / "absent")) == ""


@pytest.mark.parametrize(("number", "sentence"), [(8, "is left for shards"), (9, "has 8 photographs that can be held")])
def test_too_many_to_hold_out(photos, tmp_path, number, sentence):
    with pytest.raises(UserError, match=sentence):
        pack(find(str(photos))[:8] if number == 8 else find(str(photos)), packing(number), str(tmp_path), skip_share=1)


def test_weights_are_chosen_by_what_is_held_out_where_there_is_any(photos, tmp_path):
    pack(find(str(photos)), packing(2), str(tmp_path / "held"), skip_share=0.5)
    pack(find(str(photos)), packing(0), str(tmp_path / "none"), skip_share=0.5)
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "a.png").write_bytes((photos / "1.png").read_bytes())
    values = {
        "name": "mine",
        "steps": 1,
        "model": {"kind": "srcnn"},
        "data": {"shards": str(tmp_path / "held"), "patch": 40},
        "evaluation": {"benchmarks": [str(tmp_path / "test")]},
    }
    chosen = {}
    for validation, at in (("auto", "held"), ("none", "held"), ("auto", "none")):
        changes = {"evaluation.validation": validation, "data.shards": str(tmp_path / at)}
        recipe = resolve_recipe(recipe_from(values, changes))
        names = [benchmark.name for benchmark in benchmarks.load_for(recipe)]
        chosen[validation, at] = names, recipe.evaluation.choice(names[0])
    assert chosen["auto", "held"] == (["validation", "test"], "the weights with the highest validation PSNR-Y, dB")
    assert chosen["none", "held"] == (["test"], "the weights with the highest test PSNR-Y, dB (chosen on a test set)")
    assert chosen["auto", "none"] == chosen["none", "held"]
