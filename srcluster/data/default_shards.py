"""The shards of `data.shards: auto`, and what is printed of shards that were packed."""

from srcluster import storage
from srcluster.data import photos, shards
from srcluster.data.holdout import VALIDATION
from srcluster.data.shards import Manifest, Packing

_LISTED = 20
"""Skipped photographs that are printed; the manifest has all."""


def print_packed(manifest: Manifest, url: str) -> None:
    """Print what was packed."""
    size = sum(shard.bytes for shard in manifest.shards)
    print(
        f"{manifest.samples} samples in {len(manifest.shards)} shards ({size / 1e6:.1f} MB) in {url}, "
        f"digest {manifest.digest()}"
    )
    if manifest.holdout:
        print(f"  {len(manifest.holdout)} photographs are held out, in {storage.join(url, VALIDATION)}")
    for skipped in manifest.skipped[:_LISTED]:
        print(f"  skipped {skipped.photo}: {skipped.reason}")
    if len(manifest.skipped) > _LISTED:
        print(f"  and {len(manifest.skipped) - _LISTED} more, which the manifest lists")


def default_shards(runs_url: str) -> str:
    """The URL of the shards of `data.shards: auto`: of T91 where SRCLUSTER_DATA has it, else of the wheels.

    They are packed whole, below `runs_url`, unless they are already there.
    """
    folder = photos.data_folder()
    source = "T91" if folder and (folder / "T91").is_dir() else "wheels"
    packing = Packing(source=source, crop=None, min_side=80)
    url = storage.join(runs_url, "shards", source)
    if not storage.exists(storage.join(url, "manifest.json")) or shards.load_manifest(url).packing != packing:
        print_packed(shards.pack(photos.find(source), packing, url), url)
    return url
