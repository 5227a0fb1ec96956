"""`python -m srcluster.pack SOURCE --to URL`: photographs to WebDataset shards."""

from typing import Annotated

import typer

from srcluster import cli, storage
from srcluster.data import photos, shards
from srcluster.data.shards import Manifest, Packing

__all__ = ["default_shards", "pack"]


def pack(
    source: Annotated[str, typer.Argument(help="`wheels`, a folder under SRCLUSTER_DATA (T91), a folder, or s3://.")],
    to: Annotated[str, typer.Option(help="Folder or s3:// prefix that the shards go to.")],
    crop: Annotated[int, typer.Option(help="Side of the crops in pixels; 0 keeps whole photographs.")] = 288,
    crops_per_photo: Annotated[int, typer.Option(help="Crops cut from each photograph.")] = 1,
    limit: Annotated[int, typer.Option(help="Take only so many photographs; 0 takes all.")] = 0,
    min_side: Annotated[int, typer.Option(help="Skip photographs with a shorter side, in pixels.")] = 0,
    format: Annotated[str, typer.Option(help="webp, png, npy (raw) or jpg (lossy).")] = "webp",
    shard_mb: Annotated[float, typer.Option(help="About how large a shard is, in 10^6 bytes.")] = 64,
    seed: Annotated[int, typer.Option(help="Decides where crops are cut.")] = 0,
) -> None:
    """Cut photographs into HR samples and store them as tar shards, with a manifest."""
    found = photos.find(source)
    packing = Packing(
        source=source,
        crop=crop or None,
        crops_per_photo=crops_per_photo,
        min_side=min_side,
        format=format,
        shard_bytes=int(shard_mb * 1e6),
        seed=seed,
    )
    tell(shards.pack(found[: limit or None], packing, to), to)


def tell(manifest: Manifest, url: str) -> None:
    """Print what was packed."""
    size = sum(shard.bytes for shard in manifest.shards)
    print(
        f"{manifest.samples} samples in {len(manifest.shards)} shards ({size / 1e6:.1f} MB) in {url}, "
        f"digest {manifest.digest()}"
    )
    for skipped in manifest.skipped:
        print(f"  skipped {skipped.photo}: {skipped.reason}")


def default_shards(home: str) -> str:
    """The shards of `data.shards: auto`: T91 where SRCLUSTER_DATA has it, and else the photographs of the wheels.

    They are packed whole, below `home`, unless they are already there.
    """
    folder = photos.data_folder()
    source = "T91" if folder and (folder / "T91").is_dir() else "wheels"
    packing = Packing(source=source, crop=None, min_side=80)
    url = storage.join(home, "shards", source)
    if not storage.exists(storage.join(url, "manifest.json")) or shards.load_manifest(url).packing != packing:
        tell(shards.pack(photos.find(source), packing, url), url)
    return url


if __name__ == "__main__":
    cli.run(pack)
