"""Folders, prefixes and archives as people have them: what is a picture there, and what is said of the rest."""

import io
import os
import zipfile
from pathlib import Path

import pytest
from PIL import Image

from srcluster import storage
from srcluster.data import listing
from srcluster.data.listing import list_pictures

RUBBISH = [
    "._a.png", ".DS_Store", ".hidden.png", "Thumbs.db", "desktop.ini", "__MACOSX/a.png", "__MACOSX/._a.png",
    "@eaDir/a.png/SYNOPHOTO_THUMB_M.jpg", ".cache/a.png", "SHA256SUMS", "a.png.md5", "README", "README.md", "a.csv",
]  # fmt: skip
NAMES = ["a.png", "sub/a.PNG", "b.jfif", "c.jpe", "d.TIF", "e:f.png", "odd name (copy).gif"]


def png() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4)).save(buffer, "PNG")
    return buffer.getvalue()


def folder_of(root: Path, *names: str) -> str:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(png())
    return str(root)


def names(url: str) -> list[str]:
    return [photo.name for photo in list_pictures(url)]


@pytest.fixture(params=["folder", "zip", "s3"])
def anywhere(request, tmp_path, monkeypatch):
    """Makes a source of each kind of the files of these names, the last ones without content."""

    def make(full: list[str], empty: tuple[str, ...] = ()) -> str:
        content = dict.fromkeys(full, png()) | dict.fromkeys(empty, b"")
        if request.param == "folder":
            for name, data in content.items():
                storage.write(f"{tmp_path}/in/{name}", data)
            return f"{tmp_path}/in"
        if request.param == "zip":
            with zipfile.ZipFile(tmp_path / "in.zip", "w") as archive:
                for name, data in content.items():
                    archive.writestr(name, data)
            return f"{tmp_path}/in.zip"
        words = {name: '"1"' if data else '"d41d8cd98f00b204e9800998ecf8427e"' for name, data in content.items()}
        monkeypatch.setattr(storage, "versions", lambda url: words)
        return "s3://bucket/in"

    return make


def test_pictures_are_found_among_rubbish(anywhere):
    found = list_pictures(anywhere(NAMES + RUBBISH))
    assert [photo.name for photo in found] == sorted(NAMES)
    assert found.note == ""


def test_what_is_not_taken_is_counted(anywhere):
    found = list_pictures(
        anywhere(["a.png", "1.HEIC", "2.heic", "x/3.heic", "b.mp4", "noending"], ("empty.png", "e.txt"))
    )
    assert [photo.name for photo in found] == ["a.png"]
    assert found.note == "6 files not taken: 3 .heic, 1 .mp4, 1 empty, 1 without ending"
    assert list_pictures(anywhere(["a.png", "1.heic"])).left_out[".heic"] >= 1


def test_links_are_followed_once(tmp_path):
    inside = folder_of(tmp_path / "d", "real/a.png", "z/c.png")
    folder_of(tmp_path / "store", "b.png")
    (tmp_path / "d/linked").symlink_to("../store")
    (tmp_path / "d/a_second_way").symlink_to("z")
    (tmp_path / "d/file.png").symlink_to("real/a.png")
    (tmp_path / "store/back").symlink_to(tmp_path / "d")
    (tmp_path / "d/real/up").symlink_to("..")
    (tmp_path / "d/real/root").symlink_to("/")
    (tmp_path / "d/gone.png").symlink_to("nowhere")
    (tmp_path / "d/self.png").symlink_to("self.png")
    found = list_pictures(inside)
    assert [photo.name for photo in found] == ["file.png", "linked/b.png", "real/a.png", "z/c.png"]
    assert all(photo.read() == png() for photo in found)
    assert found.note == "4 files not taken: 2 broken link, 2 link to a folder around it"


def test_folders_that_link_to_each_other_are_walked_once(tmp_path):
    for number in range(12):
        folder_of(tmp_path / f"{number}", "a.png")
        for other in range(12):
            (tmp_path / f"{number}/to{other}").symlink_to(f"../{other}")
    assert len(names(str(tmp_path))) == 12


def test_what_can_not_be_read_is_said(tmp_path, monkeypatch):
    inside = folder_of(tmp_path, "a.png", "b.png", "locked/c.png")
    scandir, access = os.scandir, os.access

    def scan(path):
        if path.endswith("locked"):
            raise PermissionError(path)
        return scandir(path)

    monkeypatch.setattr(listing.os, "scandir", scan)
    monkeypatch.setattr(listing.os, "access", lambda path, mode: not path.endswith("b.png") and access(path, mode))
    found = list_pictures(inside)
    assert [photo.name for photo in found] == ["a.png"]
    assert found.note == "2 files not taken: 1 unreadable, 1 unreadable folder"


def test_names_that_are_not_utf_8(tmp_path):
    (tmp_path / os.fsdecode(b"\xff\xfe.png")).write_bytes(png())
    (tmp_path / os.fsdecode(b"\xff")).mkdir()
    (tmp_path / os.fsdecode(b"\xff") / "a.png").write_bytes(png())
    found = list_pictures(str(tmp_path))
    assert [photo.name for photo in found] == [r"\udcff/a.png", r"\udcff\udcfe.png"]
    assert [photo.read() for photo in found] == [png(), png()]


def test_keys_with_empty_parts_stay_apart(monkeypatch):
    words = {"/a.png": "1", "a.png": "2", "x//a.png": "3", "x/a.png": "4"}
    monkeypatch.setattr(storage, "versions", lambda url: words)
    urls = {photo.name: photo.url for photo in list_pictures("s3://bucket/in/")}
    assert urls == {name: f"s3://bucket/in/{name}" for name in words}


def test_a_zip_with_a_name_twice(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a.png", b"first")
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("a.png", b"second")
    found = list_pictures(f"{tmp_path}/a.zip")
    # As whoever unpacks it has it.
    assert [photo.read() for photo in found] == [b"second"]
    assert found.note == "1 file not taken: 1 of the same name"
