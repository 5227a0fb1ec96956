"""Packing as a person does it: by the command line, in this process and on a real cluster, stopped in every way."""

import math
import os
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image

from srcluster import local, storage
from srcluster.data.shards import load_manifest
from srcluster.errors import UserError
from srcluster.pack.__main__ import pack

PHOTOS = 24
SHARDS = 12
SMALL = ("--format", "png", "--shard-mb", "0.32")


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    random = np.random.default_rng(0)
    (folder / "sub").mkdir()
    for number in range(PHOTOS):
        pixels = random.integers(0, 256, (320, 340, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / ("sub" if number % 2 else "") / f"{number:02d}.bmp")
    return folder


@pytest.fixture(scope="module")
def expected(photos, tmp_path_factory) -> dict[str, bytes]:
    """What packing these photographs gives: every file by name."""
    folder = tmp_path_factory.mktemp("expected")
    finish(start(photos, folder))
    made = content(folder)
    assert len(made) == 2 * SHARDS + 1
    return made


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    state = tmp_path_factory.mktemp("state")
    try:
        yield local.start(["s3", "ray"], state)
    finally:
        local.stop(local.SERVICES, state, timeout_s=0)


def start(source: Path | None, to: Path | str, *arguments: str, cluster: local.Cluster | None = None):
    own = ("AWS_", "RAY_", "MLFLOW_", "SRCLUSTER_")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(own)}
    where = ["--verify", to] if source is None else [source, "--to", to, *SMALL]
    return subprocess.Popen(
        [sys.executable, "-m", "srcluster.pack", *map(str, where), *arguments],
        env=environment | (cluster.environment() if cluster else {}),
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def finish(process: subprocess.Popen, status: int = 0) -> str:
    printed, _ = process.communicate(timeout=120)
    print(printed)
    assert process.returncode == status
    return printed


def content(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in storage.names(str(folder))}


def times(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in folder.glob("0*.tar")}


def finished(folder: Path) -> dict[str, int]:
    """The shards that won't be made again, and when each was made."""
    return {name: when for name, when in times(folder).items() if (folder / name).with_suffix(".json").exists()}


def wait_for(condition: Callable[[], bool], process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert process.poll() is None, finish(process)
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_a_killed_run_is_continued(photos, expected, tmp_path):
    process = start(photos, tmp_path)
    wait_for(lambda: len(finished(tmp_path)) >= 3, process)
    process.kill()
    process.wait()
    before = finished(tmp_path)
    assert 3 <= len(before) < SHARDS
    assert not (tmp_path / "manifest.json").exists()
    assert f"{SHARDS - len(before)} shards were made" in finish(start(photos, tmp_path))
    assert content(tmp_path) == expected
    assert before.items() <= times(tmp_path).items()
    made = times(tmp_path)
    assert "nothing was to be done" in finish(start(photos, tmp_path))
    assert times(tmp_path) == made


def pack_here(source: Path | str, to: Path, **options) -> None:
    pack(str(source), str(to), **{"address": "none", "format": "png", "shard_mb": 0.32} | options)


def test_shards_of_other_settings_are_neither_used_nor_replaced(photos, tmp_path, capsys):
    pack_here(photos, tmp_path, limit=4)
    assert "2 shards were made" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"has shards of other settings \(seed 0, not 1\): pack elsewhere, or delete"):
        pack_here(photos, tmp_path, limit=4, seed=1)
    (tmp_path / "manifest.json").unlink()
    pack_here(photos, tmp_path, limit=4, seed=1)
    assert "2 shards were made" in capsys.readouterr().out
    assert load_manifest(str(tmp_path)).packing.seed == 1
    pack_here(photos, tmp_path, limit=6, seed=1)
    assert "6 samples in 3 shards" in (printed := capsys.readouterr().out)
    assert "1 shard was made" in printed
    pack_here(photos, tmp_path, limit=4, seed=1)
    assert "nothing was to be done" in capsys.readouterr().out
    assert load_manifest(str(tmp_path)).samples == 4


def test_a_replaced_photograph_is_packed_again(photos, tmp_path, capsys):
    mine = tmp_path / "photos"
    mine.mkdir()
    for path in sorted(photos.glob("*.bmp"))[:4]:
        (mine / path.name).write_bytes(path.read_bytes())
    (mine / "00.bmp").write_bytes(b"broken")
    with pytest.raises(UserError, match=r"1 of 4 photographs .* or raise --skip-share"):
        pack_here(mine, tmp_path / "to")
    pack_here(mine, tmp_path / "to", skip_share=0.25)
    assert "3 samples in 2 shards" in (printed := capsys.readouterr().out)
    assert "skipped 00.bmp: 00.bmp is not a picture" in printed
    Image.new("RGB", (320, 320)).save(mine / "00.bmp")
    pack_here(mine, tmp_path / "to")
    assert "4 samples in 2 shards" in (printed := capsys.readouterr().out)
    assert "1 shard was made" in printed


def test_photographs_that_are_all_unusable(tmp_path):
    (tmp_path / "a.png").write_bytes(b"broken")
    with pytest.raises(UserError, match=r"no photograph of .* can be used; the first: a.png is not a picture"):
        pack_here(tmp_path, tmp_path / "to", skip_share=1)


def test_a_zip_gives_the_same_shards_as_its_folder(photos, expected, tmp_path):
    with zipfile.ZipFile(tmp_path / "photos.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(photos.rglob("*.bmp"), reverse=True):
            archive.write(path, path.relative_to(photos))
        archive.writestr("__MACOSX/._00.bmp", b"")
        archive.writestr("notes.txt", b"")
    pack_here(tmp_path / "photos.zip", tmp_path / "to")
    made = content(tmp_path / "to")
    shards = [name for name in expected if name.endswith(".tar")]
    assert [made[name] for name in shards] == [expected[name] for name in shards]


def test_every_bad_shard_is_named(photos, expected, tmp_path, capsys):
    for name, data in expected.items():
        (tmp_path / name).write_bytes(data)
    pack(verify=str(tmp_path), address="none")
    assert f"{PHOTOS} samples in {SHARDS} shards" in capsys.readouterr().out
    flipped = bytearray(expected["000003.tar"])
    flipped[len(flipped) // 2] ^= 1
    (tmp_path / "000003.tar").write_bytes(flipped)
    (tmp_path / "000005.tar").unlink()
    (tmp_path / "000007.tar").write_bytes(expected["000007.tar"][:-1])
    with pytest.raises(UserError, match=rf"3 of {SHARDS} shards of {tmp_path} are bad: delete them and pack"):
        pack(verify=str(tmp_path), address="none")
    printed = capsys.readouterr().out
    assert "000003.tar has another SHA-256" in printed
    assert "000005.tar is missing" in printed
    assert "000007.tar has " in printed
    assert printed.count(".tar") == 3
    (tmp_path / "000003.tar").unlink()
    (tmp_path / "000007.tar").unlink()
    pack_here(photos, tmp_path)
    assert "3 shards were made" in capsys.readouterr().out
    assert content(tmp_path) == expected


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"format": "gif"}, "format: Input should be 'tiff', 'webp', 'png', 'npy' or 'jpg' (given: 'gif')"),
        ({"crop": 4}, "crop: Input should be greater than or equal to 8 (given: 4)"),
        ({"shard_mb": math.nan}, "shard_bytes: Input should be a finite number (given: nan)"),
        ({"shard_mb": 0}, "shard_bytes: Input should be greater than or equal to 1"),
        ({"skip_share": 2}, "--skip-share must be from 0 to 1, not 2"),
        ({"limit": -1}, "--workers and --limit must be 0 or more"),
        ({}, "there is no folder of photographs 'absent'"),
        ({"source": "s3://bucket/coco.zip"}, "an archive, which is read from a local path alone"),
        ({"to": None}, "say what to pack and where to: python -m srcluster.pack SOURCE --to URL"),
        ({"verify": "b"}, "--verify reads shards that are there: leave out SOURCE and --to"),
        ({"source": None, "to": None, "verify": "absent"}, "there is no folder"),
        ({"source": "wheels", "shard_mb": 0.1, "address": "127.0.0.1:9"}, "no Ray cluster answers at 127.0.0.1:9"),
        ({"source": "wheels", "shard_mb": 0.1, "address": "remote"}, "no Ray cluster answers at remote: start it"),
    ],
)
def test_what_can_not_be_done_is_said(tmp_path, options, sentence):
    with pytest.raises(UserError) as error:
        pack(**{"source": "absent", "to": str(tmp_path), "address": "none"} | options)
    assert sentence in str(error.value)


@pytest.mark.cluster
@pytest.mark.parametrize("workers", [1, 2])
def test_any_number_of_workers_gives_the_same_bytes(photos, expected, cluster, monkeypatch, workers):
    for name, value in cluster.environment().items():
        monkeypatch.setenv(name, value)
    to = f"s3://{cluster.bucket}/workers-{workers}"
    finish(start(photos, to, "--workers", str(workers), cluster=cluster))
    assert {name: storage.read(storage.join(to, name)) for name in storage.names(to)} == expected
    if workers == 2:
        storage.delete(storage.join(to, "000001.tar"))
        assert "000001.tar is missing" in finish(start(None, to, cluster=cluster), status=2)


@pytest.mark.cluster
def test_photographs_in_s3(photos, cluster, monkeypatch, tmp_path, capsys):
    for name, value in cluster.environment().items():
        monkeypatch.setenv(name, value)
    source = f"s3://{cluster.bucket}/photos"
    for path in sorted(photos.rglob("*.bmp"))[:4]:
        storage.write(storage.join(source, path.name), path.read_bytes())
    pack_here(source, tmp_path)
    assert "2 shards were made" in capsys.readouterr().out
    storage.write(storage.join(source, "00.bmp"), (photos / "02.bmp").read_bytes())
    pack_here(source, tmp_path)
    assert "1 shard was made" in capsys.readouterr().out


@pytest.mark.cluster
def test_a_store_that_is_gone_is_one_sentence(photos, cluster):
    printed = finish(start(photos, "s3://absent/to", cluster=cluster), status=2)
    assert "there is no bucket absent" in printed
    assert len(printed.splitlines()) == 1


@pytest.mark.cluster
def test_what_a_task_finds_wrong_is_one_sentence(photos, cluster, tmp_path):
    (tmp_path / "000001.tar").mkdir()
    printed = finish(start(photos, tmp_path, cluster=cluster), status=2)
    assert printed.splitlines()[-1] == f"error: {tmp_path}/000001.tar can't be used: Is a directory"
    assert "Traceback" not in printed


@pytest.mark.cluster
def test_ctrl_c_and_a_killed_worker_lose_nothing(photos, expected, cluster, tmp_path):
    process = start(photos, tmp_path, cluster=cluster)
    wait_for(lambda: len(finished(tmp_path)) >= 2, process)
    process.send_signal(signal.SIGINT)
    printed = finish(process, status=130)
    assert (
        f"interrupted; the shards that are complete stay, continue with: python -m srcluster.pack {photos}" in printed
    )
    before = finished(tmp_path)
    assert 2 <= len(before) < SHARDS

    process = start(photos, tmp_path, cluster=cluster)
    leader = psutil.Process(cluster.processes["ray"][0])
    busy: list[psutil.Process] = []
    wait_for(lambda: bool(busy.extend(making(leader)) or busy), process)
    busy[0].kill()
    finish(process)
    assert content(tmp_path) == expected
    assert before.items() <= times(tmp_path).items()


def making(leader: psutil.Process) -> list[psutil.Process]:
    """Ray's processes that are making a shard at this moment."""
    found = []
    for process in leader.children(recursive=True):
        try:
            if process.cmdline()[:1] == ["ray::make_shard"]:
                found.append(process)
        except psutil.NoSuchProcess:
            continue
    return found


def test_pairs_are_packed_and_their_faults_listed(tmp_path, capsys):
    for kind, side, names in (("HR", 128, ("a", "b", "c")), ("LR", 32, ("ax4", "cx4"))):
        (tmp_path / kind).mkdir()
        for name in names:
            Image.new("RGB", (side, side)).save(tmp_path / kind / f"{name}.png")
    hr, lr, to = (str(tmp_path / name) for name in ("HR", "LR", "shards"))
    pack(hr, lr=lr, to=to, crop=0, skip_share=0.5, address="none")
    assert "skipped b.png: b.png has no LR picture of its name" in capsys.readouterr().out
    packing = load_manifest(to).packing
    assert (packing.scale, packing.lr) == (4, lr)
    with pytest.raises(UserError, match="crop is a multiple of the pairs' scale 4, not 62"):
        pack(hr, lr=lr, to=str(tmp_path / "other"), crop=62, address="none")
    with pytest.raises(UserError, match=r"has shards of other settings .*lr .*LR, not None"):
        pack(hr, to=to, crop=0, address="none")
