"""The weights of VGG16 and VGG19: found, fetched once a node, and checked before anything depends on them."""

import hashlib
import io
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from srcluster import storage
from srcluster.data.cache import cache_for
from srcluster.data.download import DownloadError, download
from srcluster.errors import UserError
from srcluster.recipe.objective import VGG, VGG_LAYERS

_TORCHVISION = {
    "vgg16": ("vgg16-397923af.pth", "397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0"),
    "vgg19": ("vgg19-dcbb9e9d.pth", "dcbb9e9d"),
}
"""What torchvision's files are called by their host, and so by `srcluster.fetch`; what is known of their SHA-256."""

_FETCH = "get the whole file with `python -m srcluster.fetch {} --to DIR` (a folder, or s3://bucket/weights)"


def read(spec: VGG, or_less: bool = False) -> tuple[VGG, dict[str, Tensor]]:
    """The weights that a specification asks for, checked.

    From S3 or the web a file is fetched once by all processes of a node: it stays in the folder that SRCLUSTER_CACHE
    names, or else in ~/.cache/srcluster.

    Args:
        or_less: Leave out those layers that the file ends before, if it reaches any.

    Returns:
        The specification with what `auto` and relative paths mean written out, the SHA-256 of what was read, and the
        layers that are reached; and float32 tensors by name, `conv1_1.weight` (out x in x 3 x 3), `conv1_1.bias` (out)
        and so on, up to the deepest of these layers.

    Raises:
        UserError: There is no such file, it is not the one that its SHA-256 says, it does not reach the layer, is
            not of its network, does not say which input it wants, or wants another.
    """
    file, digits = _TORCHVISION[spec.network]
    url, named = spec.weights, os.environ.get("SRCLUSTER_WEIGHTS", "")
    if url == "auto":
        or_else = ", or name a file of your own by objective.weights (evaluate's --lpips)"
        url = named if Path(named).is_file() else find(file, spec.network, or_else=or_else)
    sha256 = spec.sha256 or (digits if url.rpartition("/")[2] == file else None)
    content = content_of(url, sha256, spec.network)
    sha256 = hashlib.sha256(content).hexdigest()
    tensors, layers = parse(content, url, spec.network), spec.layers
    normalization = "torchvision" if sha256.startswith(digits) else spec.normalization
    if normalization == "auto":
        raise UserError(
            f"{url} does not say which input it wants: set objective.normalization (evaluate's --lpips-input) "
            "to torchvision (RGB in [0, 1], normalised) or caffe (RGB in [0, 255] less its mean, as the original "
            "weights want it)"
        )
    if spec.normalization not in ("auto", normalization):
        raise UserError(f"{url} is torchvision's own file, which wants another input than caffe: leave that out")
    if or_less:
        indices = {name: index for name, index, _ in convolutions(spec.network)}
        there = {name for name in layers if f"features.{indices[name.replace('relu', 'conv')]}.weight" in tensors}
        layers = {name: weight for name, weight in layers.items() if name in there} or layers
    path = Path(url).expanduser()
    weights = str(path.resolve()) if path.is_file() else url
    said = {"layers": layers, "weights": weights, "normalization": normalization, "sha256": sha256}
    return spec.model_copy(update=said), _checked(tensors, url, layers, spec.network)


def is_torchvisions(spec: VGG) -> bool:
    """Whether the weights of a specification that `read` gave are torchvision's own."""
    return str(spec.sha256).startswith(_TORCHVISION[spec.network][1])


def convolutions(network: str = "vgg16") -> Iterator[tuple[str, int, tuple[int, int]]]:
    """Each convolution of a network: its name, its index in torchvision's `features`, its channels in and out."""
    channels = 3
    for position, name in enumerate(VGG_LAYERS[network]):
        if name.startswith("conv"):
            block = int(name[4])
            out = 64 * 2 ** min(block - 1, 3)
            # A pooling stands after each block.
            yield name, position + block - 1, (channels, out)
            channels = out


def find(file: str, fetched: str, *, beside: str = "", or_else: str = "") -> str:
    """The URL of a file that `srcluster.fetch` left in SRCLUSTER_WEIGHTS, SRCLUSTER_DATA or SRCLUSTER_STORAGE/weights.

    Args:
        fetched: What `srcluster.fetch` calls it.
        beside: A file in whose folder it may be as well.
        or_else: What else there is to do about it, in an error.

    Raises:
        UserError: It is in none of them.
    """
    named, data, runs = (os.environ.get(f"SRCLUSTER_{name}") for name in ("WEIGHTS", "DATA", "STORAGE"))
    folders = (named, data, runs and storage.join(runs, "weights"), beside.rpartition("/")[0])
    # Each once.
    urls = list(dict.fromkeys(storage.join(folder, file) for folder in folders if folder))
    for url in urls:
        if storage.exists(url):
            return url
    raise UserError(
        f"there is no {' nor '.join(urls) or file}: {_FETCH.format(fetched)} and name DIR by SRCLUSTER_WEIGHTS{or_else}"
    )


def content_of(url: str, sha256: str | None, fetched: str) -> bytes:
    """The file, from here or through the node's cache.

    Args:
        sha256: Of the file, or its first digits, if it is to be checked.
        fetched: What `srcluster.fetch` calls it.

    Raises:
        UserError: It is another file.
    """

    def fetch() -> bytes:
        content = _from_web(url, fetched) if url.startswith(("http://", "https://")) else storage.read(url)
        found = hashlib.sha256(content).hexdigest()
        if not found.startswith(sha256 or ""):
            raise UserError(f"{url} has SHA-256 {found}, and should have {sha256}: fetch it again, or name another")
        return content

    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser())
    cache = cache_for(url, otherwise=folder / "srcluster")
    if cache is None:
        return fetch()
    if sha256 and len(sha256) == 64:
        return cache.read(sha256, fetch)
    content = fetch()
    return cache.read(hashlib.sha256(content).hexdigest(), lambda: content)


def _from_web(url: str, fetched: str) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "weights")
        try:
            download(url, path)
        except DownloadError as error:
            get = _FETCH.format(fetched)
            raise UserError(f"{get} where there is a way to it, and name that: {error}") from error
        return path.read_bytes()


def parse(content: bytes, url: str, fetched: str) -> Mapping[str, Tensor]:
    """The tensors of the content of a file of either format; no code that it may hold is run."""
    try:
        if url.endswith(".safetensors"):
            return safetensors.torch.load(content)
        tensors = torch.load(io.BytesIO(content), "cpu", weights_only=True)
    except Exception as error:
        # Whatever comes to pass where bytes that mean nothing are taken for a pickle's.
        raise UserError(
            f"{url} is damaged, or no file of weights (.pth or .safetensors): {_FETCH.format(fetched)}"
        ) from error
    named = isinstance(tensors, Mapping) and all(isinstance(name, str) for name in tensors)
    if not named or not all(isinstance(tensor, Tensor) for tensor in tensors.values()):
        raise UserError(f"{url} is no state dict, which is tensors by name: {_FETCH.format(fetched)}")
    return tensors


def _checked(tensors: Mapping[str, Tensor], url: str, layers: Mapping[str, float], network: str) -> dict[str, Tensor]:
    """What the layers need of a file, renamed."""
    names, title, get = VGG_LAYERS[network], network.upper(), _FETCH.format(network)
    table = {f"features.{index}": (name, channels) for name, index, channels in convolutions(network)}
    for key in tensors:
        if key.startswith("features.") and key.rpartition(".")[0] not in table:
            raise UserError(f"{url} is not of {title}, which has no {key}: {get}")
    deepest = max(layers, key=names.index)
    wanted = {}
    for prefix, (name, (channels_in, channels_out)) in table.items():
        if names.index(name) > names.index(deepest):
            break
        for part, shape in (("weight", (channels_out, channels_in, 3, 3)), ("bias", (channels_out,))):
            tensor = tensors.get(f"{prefix}.{part}")
            if tensor is None:
                raise UserError(f"{url} has no {prefix}.{part} ({name}), which {deepest} needs: {get}")
            if tensor.shape != shape:
                raise UserError(
                    f"{prefix}.{part} of {url} is {tuple(tensor.shape)}, and {title}'s {name} is {shape}: {get}"
                )
            wanted[f"{name}.{part}"] = tensor.float()
    return wanted
