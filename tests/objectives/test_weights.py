"""Where VGG16's weights are found, how often they are fetched, and what is said of those that are wrong."""

import functools
import hashlib
import shutil
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from srcluster import storage
from srcluster.errors import UserError
from srcluster.fetch import __main__ as fetch
from srcluster.objectives import build, resolve, weights
from srcluster.objectives.weights import read
from srcluster.recipe.objective import VGG, Sum
from srcluster.storage import StorageError


def spec(file, **said) -> VGG:
    return VGG(kind="vgg", weights=str(file), **{"normalization": "caffe", **said})


def sha256(path) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


@pytest.fixture(autouse=True)
def nothing_at_hand(monkeypatch, tmp_path):
    for name in ("WEIGHTS", "DATA", "STORAGE", "CACHE"):
        monkeypatch.delenv(f"SRCLUSTER_{name}", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))


@pytest.fixture
def catalogued(monkeypatch, weights_file) -> str:
    """As if the small file were the one that PyTorch publishes."""
    monkeypatch.setitem(weights._TORCHVISION, "vgg16", ("vgg16-397923af.pth", sha256(weights_file)))
    return weights_file


def test_the_file_is_the_one_that_fetch_leaves():
    source = fetch.SOURCES["vgg16"]
    assert (source.file, source.sha256) == weights._TORCHVISION["vgg16"]
    assert fetch.SOURCES["vgg19"].file == weights._TORCHVISION["vgg19"][0]


def test_auto_finds_the_file_wherever_it_was_fetched_to(catalogued, monkeypatch, tmp_path):
    with pytest.raises(UserError, match=r"no vgg16-397923af.pth: get the whole file with .* by SRCLUSTER_WEIGHTS"):
        resolve(VGG(kind="vgg"))
    # In the order of their precedence, the last first.
    for variable, below in (("STORAGE", "weights"), ("DATA", ""), ("WEIGHTS", "")):
        folder = tmp_path / variable
        monkeypatch.setenv(f"SRCLUSTER_{variable}", str(folder))
        place = folder / below / "vgg16-397923af.pth"
        place.parent.mkdir(parents=True)
        shutil.copy(catalogued, place)
        resolved = resolve(VGG(kind="vgg"))
        assert resolved.weights == str(place)
    monkeypatch.setenv("SRCLUSTER_WEIGHTS", catalogued)
    assert resolve(VGG(kind="vgg")).weights == catalogued
    (tmp_path / "DATA" / "vgg16-397923af.pth").write_bytes(b"half")
    monkeypatch.delenv("SRCLUSTER_WEIGHTS")
    with pytest.raises(UserError, match=r"vgg16-397923af.pth has SHA-256 .*, and should have .*: fetch it again"):
        resolve(VGG(kind="vgg"))


def test_a_resolved_objective_says_all_of_itself(catalogued, monkeypatch):
    monkeypatch.chdir(Path(catalogued).parent)
    loose = VGG(kind="vgg", weights="partial.pth", layers={"relu1_1": 2})
    resolved = functools.cache(resolve)(loose)
    said = {"weights": catalogued, "normalization": "torchvision", "sha256": sha256(catalogued)}
    assert resolved == loose.model_copy(update=said)
    assert resolve(resolved) == resolved
    terms = {"content": {"weight": 3, "objective": loose}, "smooth": {"objective": {"kind": "total_variation"}}}
    both = resolve(Sum(kind="sum", terms=terms))
    assert both.terms["content"].objective == resolved
    assert both.terms["content"].weight == 3


def test_what_the_weights_were_trained_with_is_not_guessed(weights_file):
    with pytest.raises(UserError, match=r"not say which input it wants: set objective.normalization .* to torchvision"):
        resolve(spec(weights_file, normalization="auto"))


def test_torchvisions_own_file_does_not_want_another_input(catalogued):
    with pytest.raises(UserError, match="is torchvision's own file, which wants another input than caffe"):
        resolve(spec(catalogued))


def test_another_file_than_the_recipe_says(weights_file):
    assert resolve(spec(weights_file, sha256=sha256(weights_file)))
    with pytest.raises(UserError, match=f"has SHA-256 {sha256(weights_file)}, and should have 00"):
        resolve(spec(weights_file, sha256="0" * 64))


@pytest.fixture(params=["w.pth", "legacy.pth", "w.safetensors"])
def written(request, weights_file, tmp_path) -> Path:
    """The same weights in each format; the oldest is that of torchvision's own file."""
    state, path = torch.load(weights_file, weights_only=True), tmp_path / request.param
    if path.suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=request.param == "w.pth")
    return path


def test_formats(weights_file, written):
    expected, found = (read(spec(file))[1] for file in (weights_file, written))
    assert len(found) == 8
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_a_partial_file_serves_the_layers_that_it_has(weights_file):
    assert len(read(spec(weights_file, layers="conv1_2"))[1]) == 4
    with pytest.raises(UserError) as error:
        resolve(spec(weights_file, layers={"relu1_1": 1, "relu3_3": 1}))
    said = f"{weights_file} has no features.10.weight (conv3_1), which relu3_3 needs: get the whole file"
    assert said in str(error.value)


def test_layers_that_a_file_ends_before_are_left_out_where_less_will_do(weights_file, tmp_path):
    several = {"relu1_2": 2, "conv2_1": 1, "relu3_3": 1}
    resolved, tensors = read(spec(weights_file, layers=several), or_less=True)
    assert resolved.layers == {"relu1_2": 2, "conv2_1": 1}
    # What lies beyond the deepest of them is not read.
    assert max(tensors) == "conv2_1.weight"
    state = torch.load(weights_file, weights_only=True)
    del state["features.2.weight"]
    torch.save(state, tmp_path / "hole.pth")
    with pytest.raises(UserError, match=r"has no features.2.weight \(conv1_2\), which conv2_1 needs"):
        read(spec(tmp_path / "hole.pth", layers=several), or_less=True)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"features.0.weight": torch.zeros(64, 1, 3, 3)},
            r"0.weight .* is \(64, 1, 3, 3\), and VGG16's conv1_1 is",
        ),
        ({"features.7.bias": torch.zeros(64)}, r"features.7.bias .* is \(64,\), and VGG16's conv2_2 is \(128,\)"),
        ({"features.16.weight": torch.zeros(1)}, r"is not of VGG16, which has no features.16.weight"),
        ({"epoch": 7}, "is no state dict"),
        ({7: torch.zeros(1)}, "is no state dict"),
        ({"features.5.bias": None}, "is no state dict"),
    ],
)
def test_weights_of_something_else(weights_file, tmp_path, change, words):
    torch.save({**torch.load(weights_file, weights_only=True), **change}, tmp_path / "other.pth")
    with pytest.raises(UserError, match=words):
        resolve(spec(tmp_path / "other.pth"))


class Code:
    def __reduce__(self):
        return (print, ("run",))


def test_damaged_files(written):
    whole = written.read_bytes()
    cuts = [0, 1, 2, 3, 10, 100, len(whole) // 2, len(whole) - 1]
    for damaged in (b"x", bytes(1000), b"<html>" * 9, *(whole[:cut] for cut in cuts)):
        written.write_bytes(damaged)
        with pytest.raises(UserError, match="is damaged, or no file of weights"):
            resolve(spec(written))


def test_a_state_dict_is_read_and_no_code_is_run(tmp_path, capsys):
    torch.save({"features.0.weight": Code()}, tmp_path / "code.pth")
    with pytest.raises(UserError, match="no file of weights"):
        resolve(spec(tmp_path / "code.pth"))
    assert "run" not in capsys.readouterr().out


def test_no_file(tmp_path):
    with pytest.raises(StorageError, match=r"there is no .*none.pth"):
        resolve(spec(tmp_path / "none.pth"))


@pytest.fixture
def web(weights_file):
    """The folder of the weights over HTTP, and what was asked of it."""
    asked = []

    class Handler(SimpleHTTPRequestHandler):
        def log_request(self, code="-", size="-"):
            asked.append(self.path)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(Path(weights_file).parent)))
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()
    server.server_close()


def test_from_the_web_once_a_node(web, weights_file, tmp_path, monkeypatch):
    url, asked = web
    resolved = resolve(spec(f"{url}/partial.pth"))
    assert resolved == spec(f"{url}/partial.pth", sha256=sha256(weights_file))
    for _ in range(3):
        build(resolved, torch.device("cpu"), torch.float32)
    assert asked == ["/partial.pth"]
    assert (tmp_path / "home" / "srcluster" / resolved.sha256).is_file()
    # Another node.
    monkeypatch.setenv("SRCLUSTER_CACHE", str(tmp_path / "other"))
    build(resolved, torch.device("cpu"), torch.float32)
    assert len(asked) == 2
    with pytest.raises(UserError, match=r"python -m srcluster.fetch vgg16 .* there is no http.*/none.pth"):
        resolve(spec(f"{url}/none.pth"))


def test_a_home_that_cannot_be_written(tmp_path):
    (tmp_path / "home").touch()
    with pytest.raises(UserError, match=r"can't be written .*: name another by SRCLUSTER_CACHE"):
        resolve(spec("https://localhost/vgg16.pth"))


@pytest.mark.cluster
def test_from_s3_once_a_node(s3, catalogued, monkeypatch):
    home = f"{s3.bucket_url}/home"
    storage.upload(Path(catalogued), f"{home}/weights/vgg16-397923af.pth")
    monkeypatch.setenv("SRCLUSTER_STORAGE", home)
    resolved = resolve(VGG(kind="vgg"))
    assert resolved.weights == f"{home}/weights/vgg16-397923af.pth"
    storage.delete(resolved.weights)
    build(resolved, torch.device("cpu"), torch.float32)
    with pytest.raises(UserError, match=f"there is no {resolved.weights}: get the whole file"):
        resolve(VGG(kind="vgg"))
