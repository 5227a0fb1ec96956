"""`python -m srcluster.pack SOURCE --to URL`: make WebDataset shards of photographs."""

import shlex
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from pydantic import ValidationError

from srcluster import cli, storage
from srcluster.cluster.choose import choose_cluster, starmap
from srcluster.data import pairs, photos, shards, verification
from srcluster.data.default_shards import print_packed
from srcluster.data.holdout import hold_out
from srcluster.data.listing import Listing, Photo
from srcluster.data.pairs import Pair
from srcluster.data.shards import Packing
from srcluster.errors import UserError
from srcluster.progress import progress
from srcluster.recipe.validation import explain


def pack(
    source: Annotated[
        str | None,
        typer.Argument(
            help="A folder, a .zip, s3://bucket/prefix, tar files ({00000..00099}.tar, *.tar), a name under "
            "SRCLUSTER_DATA (T91), or `wheels`."
        ),
    ] = None,
    to: Annotated[str | None, typer.Option(metavar="URL", help="Folder or s3:// prefix that the shards go to.")] = None,
    lr: Annotated[
        str | None, typer.Option(metavar="SOURCE", help="LR pictures of the same names: 0001.png or 0001x4.png.")
    ] = None,
    crop: Annotated[int, typer.Option(help="Side of the crops in pixels; 0 keeps whole photographs.")] = 288,
    crops_per_photo: Annotated[int, typer.Option(help="Crops cut from each photograph.")] = 1,
    limit: Annotated[int, typer.Option(help="Take only so many photographs; 0 takes all.")] = 0,
    min_side: Annotated[int, typer.Option(help="Skip photographs with a shorter side, in pixels.")] = 0,
    skip_share: Annotated[float, typer.Option(help="The largest share of photographs that may be unusable.")] = 0.1,
    format: Annotated[str, typer.Option(help="tiff, webp, png, npy (raw) or jpg (lossy).")] = "tiff",
    shard_mb: Annotated[float, typer.Option(help="About how large a shard is, in 10^6 bytes.")] = 64,
    seed: Annotated[int, typer.Option(help="Decides where crops are cut, and what is held out.")] = 0,
    holdout: Annotated[
        int, typer.Option(help="Photographs to keep out of the shards, by which weights and trials are chosen.")
    ] = 0,
    address: Annotated[
        str,
        typer.Option(
            help="A Ray cluster; `none` is this process alone; `local` is the embedded cluster, with its S3; `auto` is "
            "RAY_ADDRESS, or else none. A single shard is always made in this process."
        ),
    ] = "auto",
    workers: Annotated[int, typer.Option(help="Shards made at a time on a cluster; 0 for one on each core.")] = 0,
    verify: Annotated[
        str | None, typer.Option(metavar="URL", help="Instead, read shards again and compare them with their manifest.")
    ] = None,
) -> None:
    """Cut photographs into HR samples and store them as tar shards, with a manifest.

    Typed again after an interruption, it makes only the shards that are missing.
    """
    if workers < 0 or limit < 0:
        raise UserError("--workers and --limit must be 0 or more")
    if not 0 <= skip_share <= 1:
        raise UserError(f"--skip-share must be from 0 to 1, not {skip_share:g}")
    if verify is not None:
        if source is not None or to is not None:
            raise UserError("--verify reads shards that are there: leave out SOURCE and --to")
        _verify(storage.absolute(verify), choose_cluster(address), workers)
        return
    if source is None or to is None:
        raise UserError("say what to pack and where to: python -m srcluster.pack SOURCE --to URL")
    settings = {
        "source": source,
        "crop": crop or None,
        "crops_per_photo": crops_per_photo,
        "min_side": min_side,
        "format": format,
        "shard_bytes": shard_mb * 1e6 // 1,
        "seed": seed,
        "holdout": holdout,
    }
    packing = _packing(**settings)
    address = choose_cluster(address)
    to = storage.absolute(to)
    listed = _listed(source)
    found: Sequence[Photo | Pair] = listed[: limit or None]
    if lr:
        matched = pairs.match(listed, _listed(lr))[: limit or None]
        scale = pairs.scale_of(matched)
        packing = _packing(**settings, lr=lr, scale=scale)
        found = [Pair(*pair, scale) for pair in matched]
    _refuse_others(to, packing)
    work = _Work("packing", address, workers, trouble="photographs skipped", troubles=lambda made: len(made.skipped))
    with _interruptible("the shards that are complete stay, continue"):
        found, held = hold_out(found, packing, to)
        manifest = shards.pack(found, packing, to, run=work.run, skip_share=skip_share, holdout=held)
    print_packed(manifest, to)
    if not work.shards:
        print("nothing was to be done: all of it was there already")
        return
    shards_were = "shard was" if work.shards == 1 else "shards were"
    print(f"{work.shards} {shards_were} made in {work.seconds:.1f} s, {work.samples_per_s:.0f} samples/s")


class _Work:
    """Calls of one function for every shard, here or on a cluster, with a bar or lines that show how far they are.

    Args:
        doing: A word for them: `packing`.
        address: As from `choose_cluster`. A single call is not worth a cluster, and is always made here.
        workers: How many calls at a time on a cluster; 0 for as many as it has cores.
        trouble: A word for what can be amiss: `photographs skipped`.
        troubles: How much of it a result has.
    """

    def __init__(self, doing: str, address: str, workers: int, *, trouble: str, troubles: Callable[[Any], int]) -> None:
        self.doing, self.address, self.workers = doing, address, workers
        self.trouble, self.troubles = trouble, troubles
        self.shards, self.samples, self.seconds = 0, 0, 0.0

    @property
    def samples_per_s(self) -> float:
        return self.samples / max(self.seconds, 1e-9)

    def run(self, function: Callable[..., Any], calls: Sequence[tuple]) -> Iterator[Any]:
        """Call a function for every shard, on behalf of `shards.pack` or `verification.verify`."""
        began, troubles = time.monotonic(), 0
        with progress(self.doing, len(calls), "shards") as show:
            address = self.address if len(calls) > 1 else "none"
            for result in starmap(function, calls, address, workers=self.workers):
                self.shards += 1
                self.samples += result.samples
                self.seconds = time.monotonic() - began
                troubles += self.troubles(result)
                show(self.shards, f"{self.samples_per_s:.0f} samples/s, {troubles} {self.trouble}")
                yield result


def _listed(source: str) -> Listing:
    found = photos.find(source)
    if found.note:
        print(found.note)
    return found


def _packing(**settings: Any) -> Packing:
    try:
        return Packing(**settings)
    except ValidationError as error:
        raise UserError(explain(error, Packing)) from error


def _refuse_others(url: str, packing: Packing) -> None:
    """Refuse a --to that has shards of other settings: hours of work would be lost."""
    storage.check(url, write=True)
    if not storage.exists(storage.join(url, "manifest.json")):
        return
    there, asked = (dict(packed) for packed in (shards.load_manifest(url).packing, packing))
    if changed := [f"{name} {there[name]}, not {asked[name]}" for name in asked if there[name] != asked[name]]:
        raise UserError(f"{url} has shards of other settings ({'; '.join(changed)}): pack elsewhere, or delete them")


def _verify(url: str, address: str, workers: int) -> None:
    work = _Work("verifying", address, workers, trouble="bad", troubles=lambda checked: checked.fault is not None)
    with _interruptible("verify anew"):
        manifest, all_checked = verification.verify(url, run=work.run)
    bad = [checked for checked in all_checked if checked.fault]
    for checked in bad:
        print(f"{checked.name} {checked.fault}")
    if bad:
        raise UserError(
            f"{len(bad)} of {len(all_checked)} shards of {url} are bad: delete them and pack with the same settings, "
            "which makes only these again"
        )
    print(
        f"{manifest.samples} samples in {len(manifest.shards)} shards of {url} are as their manifest says, digest "
        f"{manifest.digest()}; {work.samples_per_s:.0f} samples/s"
    )


@contextmanager
def _interruptible(advice: str) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        print(f"interrupted; {advice} with: python -m srcluster.pack {shlex.join(sys.argv[1:])}")
        raise typer.Exit(130) from None


if __name__ == "__main__":
    cli.run(pack)
