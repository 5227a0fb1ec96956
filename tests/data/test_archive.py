"""Archives that mean harm, and what is taken from honest ones."""

import gzip
import io
import os
import random
import re
import tarfile
import zipfile

import pytest

from srcluster.data import archive
from srcluster.data.archive import ArchiveError, MemberError

NOISE = random.Random(0).randbytes(100_000)


def zipped(members: dict[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members.items():
            file.writestr(name, content)
    return packed.getvalue()


def tgz(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as file:
        for info, content in members:
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))
    return packed.getvalue()


def tar_member(name: str, kind: bytes = tarfile.REGTYPE) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, "/etc/passwd"
    return info


def zip_link() -> bytes:
    info = zipfile.ZipInfo("Set5/a.bmp")
    info.external_attr = 0o120777 << 16
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as file:
        file.writestr(info, "/etc/passwd")
    return packed.getvalue()


def encrypted() -> bytes:
    # The mark for it is in both headers of each file.
    packed = zipped({"Set5/a.bmp": b"a"})
    return re.sub(rb"(?s)(PK\x03\x04..|PK\x01\x02....).", lambda header: header[1] + b"\1", packed)


def understated() -> bytes:
    packed = zipped({"Set5/a.bmp": bytes(50_000_000)})
    return re.sub(rb"(?s)(PK\x01\x02.{20})....", lambda header: header[1] + b"\1\0\0\0", packed)


def long_header() -> bytes:
    info = tarfile.TarInfo("a.bmp")
    info.pax_headers = {"comment": "a" * 50_000_000}
    return gzip.compress(info.tobuf(tarfile.PAX_FORMAT))


ATTACKS = {
    "zip ../": (lambda: zipped({"Set5/../../a.bmp": b"a"}), "leads outside"),
    "zip absolute": (lambda: zipped({"/Set5/a.bmp": b"a"}), "leads outside"),
    "zip drive": (lambda: zipped({"C:/Set5/a.bmp": b"a"}), "leads outside"),
    "zip backslash": (lambda: zipped({"Set5\\..\\a.bmp": b"a"}), "leads outside"),
    "zip link": (zip_link, "a link or device"),
    "zip bomb": (lambda: zipped({"Set5/a.bmp": bytes(50_000_000)}), "decompression bomb"),
    "zip bomb that says it is small": (understated, "Bad CRC-32"),
    "zip of many bombs": (lambda: zipped({f"Set5/{i}.bmp": bytes(500_000) for i in range(100)}), "decompression bomb"),
    "zip of too many": (lambda: zipped({f"Set5/{i}.bmp": b"" for i in range(100)}), "decompression bomb"),
    "zip with a password": (encrypted, "encrypted"),
    "zip cut short": (lambda: zipped({"Set5/a.bmp": NOISE})[:-100], "can't be read as a zip or tgz archive"),
    "tgz ../": (lambda: tgz((tar_member("Set5/../../a.bmp"), b"a")), "leads outside"),
    "tgz absolute": (lambda: tgz((tar_member("/Set5/a.bmp"), b"a")), "leads outside"),
    "tgz link": (lambda: tgz((tar_member("Set5/a.bmp", tarfile.SYMTYPE), b"")), "a link or device"),
    "tgz hard link": (lambda: tgz((tar_member("Set5/a.bmp", tarfile.LNKTYPE), b"")), "a link or device"),
    "tgz device": (lambda: tgz((tar_member("Set5/a.bmp", tarfile.CHRTYPE), b"")), "a link or device"),
    "tgz bomb": (lambda: tgz((tar_member("other"), bytes(50_000_000))), "decompression bomb"),
    "tgz with a header as a bomb": (long_header, "decompression bomb"),
    "tgz cut short": (lambda: tgz((tar_member("Set5/a.bmp"), NOISE))[:-100], "can't be read as a zip or tgz archive"),
    "web page": (lambda: b"<html>", "can't be read as a zip or tgz archive"),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_an_attack_is_refused(tmp_path, monkeypatch, attack):
    monkeypatch.setattr(archive, "FILES", 99)
    make, sentence = ATTACKS[attack]
    (tmp_path / "packed").write_bytes(make())
    with pytest.raises(ArchiveError, match=sentence):
        list(archive.pictures(tmp_path / "packed", "Set5/*.bmp"))


def test_only_the_pictures_are_taken(tmp_path):
    members = {
        "A/images/Test/1.JPG": b"1",
        "images/test/2.jpg": b"2",
        "images/test/ids.txt": b"",
        "images/test/a/": b"",
    }
    others = {"images/train/3.jpg": b"3", "__MACOSX/images/test/._1.jpg": b"", "mytest/4.jpg": b"4", "test/5.jpg": b"5"}
    (tmp_path / "zip").write_bytes(zipped(members | others))
    (tmp_path / "tgz").write_bytes(tgz(*((tar_member(name), content) for name, content in (members | others).items())))
    for packed in tmp_path.iterdir():
        assert archive.names(packed, "images/test/*.jpg") == ["1.JPG", "2.jpg"]
        assert list(archive.pictures(packed, "images/test/*.jpg")) == [("1.JPG", b"1"), ("2.jpg", b"2")]


def test_members_are_read_one_by_one(tmp_path):
    path = tmp_path / "a.zip"
    path.write_bytes(zipped({"b/2.JPG": b"22", "1.jpg": b"1", "__MACOSX/._1.jpg": b"", "notes.txt": b""}))
    versions = archive.versions(path)
    assert [name for name, _ in versions] == ["b/2.JPG", "1.jpg", "__MACOSX/._1.jpg", "notes.txt"]
    assert [archive.read(path, name) for name, _ in versions] == [b"22", b"1", b"", b""]
    path.write_bytes(zipped({"b/2.JPG": b"22", "1.jpg": b"3"}))
    os.utime(path, (1, 1))  # Clocks of file systems are coarse.
    assert archive.read(path, "1.jpg") == b"3"
    assert set(archive.versions(path)) - set(versions) == {archive.versions(path)[1]}


def test_a_damaged_member_leaves_the_others(tmp_path):
    path = tmp_path / "a.zip"
    path.write_bytes(zipped({"1.jpg": NOISE, "2.jpg": b"22"}).replace(NOISE[500:600], bytes(100)))
    assert [name for name, _ in archive.versions(path)] == ["1.jpg", "2.jpg"]
    with pytest.raises(MemberError, match=r"1.jpg can't be read from a.zip"):
        archive.read(path, "1.jpg")
    assert archive.read(path, "2.jpg") == b"22"


@pytest.mark.parametrize("attack", [name for name in ATTACKS if name.startswith("zip") and "says" not in name])
def test_an_attack_is_refused_before_any_member_is_read(tmp_path, monkeypatch, attack):
    monkeypatch.setattr(archive, "FILES", 99)
    make, sentence = ATTACKS[attack]
    (tmp_path / "packed.zip").write_bytes(make())
    with pytest.raises(ArchiveError, match=sentence):
        [archive.read(tmp_path / "packed.zip", name) for name, _ in archive.versions(tmp_path / "packed.zip")]


def test_names_of_other_systems_are_no_attack(tmp_path):
    names = ["2024-01-02 10:20.png", "Set5\\baby.png", "..a/b..png"]
    path = tmp_path / "a.zip"
    path.write_bytes(zipped(dict.fromkeys(names, b"1")))
    assert [name for name, _ in archive.versions(path)] == names
