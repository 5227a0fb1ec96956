"""`python -m srcluster.fetch NAME... --to DIR|s3://...`: download public data sets and weights, checked.

What a file is known by, as its host publishes it or not:

- MS-COCO, DIV2K: sizes and SHA-256 are those that TensorFlow Datasets publishes. MS-COCO's host has no valid
  certificate: its address is plain http, and the checksum alone says that the file is right.
- Set5, Set14, T91: the packages of SRCNN's authors, who publish no checksum; the ones here were taken from their page
  by two parties independently, who agree.
- BSD100: the test images of BSDS300. No checksum is published, nor an exact size: TLS, gzip's own checksum and the
  number of pictures are all there is, and the SHA-256 that was found is printed.
- vgg16, vgg19: PyTorch publishes the first eight digits of the SHA-256, in the file's name; the others of vgg16 are as
  its users have recorded them. Those of vgg19 are compared where it is used.
- lpips-vgg: the heads of LPIPS 0.1, from its authors' repository; its checksum is that of their file.

They keep their own terms: MS-COCO's pictures are their photographers', BSDS300 and DIV2K are for research alone.
"""

import hashlib
import itertools
import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from srcluster import cli, local, storage
from srcluster.data import archive
from srcluster.data.archive import ArchiveError
from srcluster.data.download import download
from srcluster.errors import UserError
from srcluster.progress import progress
from srcluster.recipe.yaml_files import did_you_mean

WRITERS = 16


@dataclass(frozen=True)
class Source:
    """A file that is fetched, and what it holds.

    Attributes:
        url: Its canonical address.
        sha256: None if nobody publishes one.
        size_bytes: None if nobody publishes it.
        pictures: What the paths of the pictures in it end with; None for a file that is kept as it is.
        count: How many pictures there are.
    """

    url: str
    sha256: str | None
    size_bytes: int | None
    pictures: str | None = None
    count: int = 1

    @property
    def file(self) -> str:
        return self.url.rpartition("/")[2]

    def place(self, name: str, to: str) -> str:
        """The folder of its pictures, or where the file itself goes."""
        return storage.join(to, name if self.pictures else self.file)

    def is_at(self, place: str) -> bool:
        return len(storage.names(place)) == self.count if self.pictures else storage.exists(place)


_COCO = "http://images.cocodataset.org/zips"
_DIV2K = "https://data.vision.ee.ethz.ch/cvl/DIV2K"
_SRCNN = "https://mmlab.ie.cuhk.edu.hk/projects/SRCNN"
_BSDS = "https://www2.eecs.berkeley.edu/Research/Projects/CS/vision/bsds"
_SRCNN_V1 = (f"{_SRCNN}/SRCNN_v1.zip", "bfa68ca613c1326a59e0c34353205a254ab2b67e34df7f04e28eef567980af30", 7_558_018)

SOURCES = {
    "coco-train2017": Source(
        f"{_COCO}/train2017.zip",
        "69a8bb58ea5f8f99d24875f21416de2e9ded3178e903f1f7603e283b9e06d929",
        19_336_861_798,
        "train2017/*.jpg",
        118_287,
    ),
    "coco-train2014": Source(
        f"{_COCO}/train2014.zip",
        "ede4087e640bddba550e090eae701092534b554b42b05ac33f0300b984b31775",
        13_510_573_713,
        "train2014/*.jpg",
        82_783,
    ),
    "coco-val2017": Source(
        f"{_COCO}/val2017.zip",
        "4f7e2ccb2866ec5041993c9cf2a952bbed69647b115d0f74da7ce8f4bef82f05",
        815_585_330,
        "val2017/*.jpg",
        5_000,
    ),
    "Set5": Source(*_SRCNN_V1, "Set5/*.bmp", 5),
    "Set14": Source(*_SRCNN_V1, "Set14/*.bmp", 14),
    "BSD100": Source(f"{_BSDS}/BSDS300-images.tgz", None, None, "images/test/*.jpg", 100),
    "T91": Source(
        f"{_SRCNN}/SRCNN_train.zip",
        "001146419f7acfb12a3e7929c8acd5de88a08d687d6881085f81321ad6982b1a",
        19_619_221,
        "Train/*.bmp",
        91,
    ),
    "DIV2K_train_HR": Source(
        f"{_DIV2K}/DIV2K_train_HR.zip",
        "9d0b9c463f6e35b6c62cc6a930ee2224f670b34c1df841a57670f9acf0f6c335",
        3_530_603_713,
        "DIV2K_train_HR/*.png",
        800,
    ),
    "DIV2K_valid_HR": Source(
        f"{_DIV2K}/DIV2K_valid_HR.zip",
        "20dd31fd84d777bc1cf5d6b7654a3f569c0aec74458ae094122ad1d0489900fc",
        448_993_893,
        "DIV2K_valid_HR/*.png",
        100,
    ),
    "vgg19": Source("https://download.pytorch.org/models/vgg19-dcbb9e9d.pth", None, None),
    "vgg16": Source(
        "https://download.pytorch.org/models/vgg16-397923af.pth",
        "397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0",
        553_433_881,
    ),
    "lpips-vgg": Source(
        "https://raw.githubusercontent.com/richzhang/PerceptualSimilarity/master/lpips/weights/v0.1/vgg.pth",
        "a78928a0af1e5f0fcb1f3b9e8f8c3a2a5a3de244d830ad5c1feddc79b8432868",
        7_289,
    ),
}
ELSEWHERE = {
    "Flickr2K": "a tar file of 20 GB at https://cv.snu.ac.kr/research/EDSR/Flickr2K.tar, without a checksum: unpack "
    "its folder Flickr2K_HR, of 2,650 pictures, as Flickr2K",
    "Urban100": "linked by its authors at https://github.com/jbhuang0604/SelfExSR: unpack image_SRF_2 and image_SRF_4 "
    "into a folder Urban100",
    "Manga109": "given on application, for research, at http://www.manga109.org: put the 109 pictures into a folder "
    "Manga109/HR",
}
"""Data sets that can't be fetched without a person, and how to get them."""


def fetch(
    names: Annotated[
        list[str],
        typer.Argument(metavar="NAME...", help=f"{', '.join(SOURCES)}; how to get {', '.join(ELSEWHERE)} is said."),
    ],
    to: Annotated[str, typer.Option(help="Folder or s3:// prefix; a data set's pictures go into TO/NAME.")],
    mirror: Annotated[
        str | None, typer.Option("--from", metavar="URL|DIR", help="Where the same files are, instead of their hosts.")
    ] = None,
    downloads: Annotated[
        Path | None, typer.Option(help="Where archives stay until they are unpacked; else in the state folder.")
    ] = None,
) -> None:
    """Download data sets, check them, and unpack their pictures; what broke off continues, what is there stays."""
    wanted = {name: _source(name) for name in names}
    # Files of a folder that was named are used where they are, and stay.
    borrowed = Path(mirror) if mirror is not None and Path(mirror).is_dir() else None
    if mirror and not borrowed and not mirror.startswith(("http://", "https://")):
        raise UserError(f"--from {mirror} is neither a folder nor an http(s) address; correct it")
    storage.check(to, write=True)
    downloads = downloads or local.state_folder() / "downloads"
    for name, source in wanted.items():
        place = source.place(name, to)
        if source.is_at(place):
            print(f"{name}: in {place} already")
            continue
        path = _borrow(source, borrowed) if borrowed else _download(source, mirror, downloads)
        try:
            _check(path, source)
            _put(path, source, place)
        except ArchiveError:
            # The next run must not begin with the same wrong file.
            if not borrowed:
                path.unlink()
            raise
        print(f"{name}: {source.count} file{'s' * (source.count > 1)} in {place}")
    for source in wanted.values():
        # Not earlier, as one archive may hold several data sets.
        if not borrowed:
            (downloads / source.file).unlink(missing_ok=True)


def _source(name: str) -> Source:
    if name in ELSEWHERE:
        raise UserError(f"{name} is {ELSEWHERE[name]} within the folder that SRCLUSTER_DATA names")
    if name not in SOURCES:
        raise UserError(f"a data set is one of {', '.join(SOURCES)}, not {name!r}{did_you_mean(name, SOURCES)}")
    return SOURCES[name]


def _borrow(source: Source, folder: Path) -> Path:
    path = folder / source.file
    if not path.is_file():
        raise UserError(f"there is no {path}; put {source.url} there, or leave out --from")
    return path


def _download(source: Source, mirror: str | None, downloads: Path) -> Path:
    path = downloads / source.file
    if not path.exists():
        url = storage.join(mirror, source.file) if mirror else source.url
        total = None if source.size_bytes is None else _megabytes(source.size_bytes)
        part = path.with_name(f"{path.name}.part")
        had = _megabytes(part.stat().st_size) if part.exists() else 0
        with progress(f"fetching {source.file}", total, "MB", before=had) as on_report:
            download(url, path, size_bytes=source.size_bytes, progress=lambda done, _: on_report(done / 1e6, ""))
    return path


def _megabytes(size_bytes: int) -> int:
    return math.ceil(size_bytes / 1e6)


def _check(path: Path, source: Source) -> None:
    digest, done = hashlib.sha256(), 0
    with progress(f"checking {source.file}", _megabytes(path.stat().st_size), "MB") as on_report:
        for chunk in storage.chunks(str(path)):
            digest.update(chunk)
            done += len(chunk)
            on_report(done / 1e6, "")
    if source.sha256 is None:
        print(f"{source.file}: no checksum is published; this one has SHA-256 {digest.hexdigest()}")
    elif digest.hexdigest() != source.sha256:
        raise ArchiveError(
            f"{path} is not the file that it should be: its SHA-256 is {digest.hexdigest()}, not {source.sha256}; "
            "fetch it again, or from another mirror"
        )


def _put(path: Path, source: Source, place: str) -> None:
    """Copy the file, or the pictures in it, to where they belong."""
    if source.pictures is None:
        storage.upload(path, place)
        return
    names = archive.names(path, source.pictures)
    if not len(set(names)) == len(names) == source.count:
        raise ArchiveError(f"{path} holds {len(names)} {source.pictures}, not {source.count}; name another mirror")
    if strangers := sorted(set(storage.names(place)) - set(names)):
        raise UserError(f"{place} holds {strangers[0]}, which is not of this data set; move it, or fetch elsewhere")
    files = archive.pictures(path, source.pictures)
    done = 0
    with (
        ThreadPoolExecutor(WRITERS) as pool,
        progress(f"unpacking {source.file}", source.count, "pictures") as on_report,
    ):
        # In batches, as a pool would take all pictures into memory at once.
        while batch := list(itertools.islice(files, 4 * WRITERS)):
            for _ in pool.map(lambda file: storage.write(storage.join(place, file[0]), file[1]), batch):
                done += 1
                on_report(done, "")


if __name__ == "__main__":
    cli.run(fetch)
