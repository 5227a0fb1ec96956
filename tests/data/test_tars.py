"""Tar files of other programs: what of them is taken, where it lies, and what is said of those that are cut."""

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from srcluster import storage
from srcluster.data.photos import find
from srcluster.data.pictures import PhotoError
from srcluster.data.shards import Packing, pack
from srcluster.data.stream import Stream
from srcluster.data.tars import tar_urls
from srcluster.recipe import Data
from srcluster.storage import StorageError


def encoded(number: int, format: str) -> bytes:
    content = io.BytesIO()
    pixels = np.random.default_rng(number).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(content, format, **({"lossless": True} if format == "webp" else {}))
    return content.getvalue()


def write_tar(path: Path, files: dict[str, bytes], format: int = tarfile.PAX_FORMAT) -> None:
    with tarfile.open(path, "w", format=format) as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


@pytest.fixture
def foreign(tmp_path) -> Path:
    """As img2dataset makes them: a picture, its caption and its facts; and names that others give."""
    for shard in range(3):
        files = {}
        for number in range(4):
            key = f"{shard:05}{number:04}"
            files |= {f"{key}.webp": encoded(number, "webp"), f"{key}.json": b"{}", f"{key}.txt": b"a caption"}
        files |= {f"./a folder/a.name with.dots{'.' * shard}x.png": encoded(9, "png")}
        files |= {f"{'long/' * 40}{shard}.bmp": encoded(8, "bmp"), "film.mp4": b"1", "empty.jpg": b""}
        write_tar(tmp_path / f"{shard:05}.tar", files, tarfile.GNU_FORMAT if shard else tarfile.PAX_FORMAT)
        (tmp_path / f"{shard:05}_stats.json").write_bytes(b"{}")
    return tmp_path


@pytest.mark.parametrize("source", ["", "/*.tar", "/{00000..00002}.tar", "/0000?.tar"])
def test_their_pictures_are_found_and_read(foreign, source):
    found = find(f"{foreign}{source}")
    assert len(found) == 18
    assert found.note == "6 files not taken: 3 .mp4, 3 empty"
    pictures = {photo.name: photo for photo in found}
    assert pictures["00001.tar/000010002.webp"].read() == encoded(2, "webp")
    assert pictures["00000.tar/./a folder/a.name with.dotsx.png"].read() == encoded(9, "png")
    assert pictures[f"00002.tar/{'long/' * 40}2.bmp"].decode().shape == (40, 50, 3)


def test_they_are_packed_and_trained_on(foreign, tmp_path):
    found = find(str(foreign / "0000{0..1}.tar"))
    manifest = pack(found, Packing(source="foreign", crop=None, shard_bytes=2_000_000), str(tmp_path / "shards"))
    assert manifest.samples == 12
    (hr,) = next(Stream(Data(shards=str(tmp_path / "shards"), patch=16, batch=3), scale=2, seed=0).batches())
    assert hr.shape == (3, 3, 24, 24)


def test_a_tar_that_is_cut_is_said_to_be(foreign):
    path = foreign / "00001.tar"
    whole = path.read_bytes()
    with tarfile.open(path) as tar:
        ends = [member.offset for member in tar.getmembers()][1:]
    for length in (len(whole) // 2, ends[3], ends[5], ends[0] + 100):
        path.write_bytes(whole[:length])
        with pytest.raises(PhotoError, match=r"00001.tar is cut .*fetch it again"):
            find(str(foreign))
    for content in (b"", b"no tar at all" * 100):
        path.write_bytes(content)
        with pytest.raises(PhotoError, match=r"00001.tar is (no tar file|cut)"):
            find(str(foreign))


def test_names_that_are_nowhere(tmp_path):
    with pytest.raises(PhotoError, match=r"no file has a name like .*x\*.tar"):
        find(f"{tmp_path}/x*.tar")
    with pytest.raises(StorageError, match=r"00000.tar"):
        find(f"{tmp_path}/{{00000..00003}}.tar")
    assert tar_urls("s3://b/{8..11}/{0..1}.tar")[-2:] == ["s3://b/11/0.tar", "s3://b/11/1.tar"]


@pytest.mark.cluster
def test_they_are_streamed_from_a_store(foreign, s3):
    for path in foreign.glob("*.tar"):
        storage.upload(path, storage.join(s3.bucket_url, "foreign", path.name))
    for source in ("", "/*.tar", "/{00000..00002}.tar"):
        near, far = find(f"{foreign}{source}"), find(f"{s3.bucket_url}/foreign{source}")
        assert [photo.name for photo in far] == [photo.name for photo in near]
        assert all(one.read() == other.read() for one, other in zip(near, far, strict=True))
