"""Files go both ways between this package and other programs."""

import os
import re

import pytest
import torch
from safetensors.torch import save_file

from srcluster import recipe as r
from srcluster.errors import UserError
from srcluster.models import build
from srcluster.models.export import export
from srcluster.models.saved import load_model
from srcluster.recipe import recipe_from

OURS = [
    (4, {"kind": "compact", "features": 8, "convs": 3}),
    (3, {"kind": "compact", "features": 6, "convs": 2}),
    (4, {"kind": "rrdb", "features": 8, "blocks": 2}),
    (2, {"kind": "rrdb", "features": 8, "blocks": 2, "unshuffle": 2}),
    (4, {"kind": "span", "features": 8}),
    (2, {"kind": "span", "features": 8, "norm": False}),
    (4, {"kind": "msrresnet", "features": 8, "blocks": 2}),
    (3, {"kind": "msrresnet", "features": 8, "blocks": 2}),
]
EDSR = {"norm": "none", "activation": "relu", "around": "none", "outer_kernel": 3, "subtract_mean": True}


def network_of(scale: int, spec: dict) -> tuple[r.Recipe, torch.nn.Module]:
    torch.manual_seed(0)
    recipe = recipe_from({"name": "mine", "steps": 1, "scale": scale, "model": spec})
    return recipe, build(recipe.model, scale).eval().requires_grad_(False)


@pytest.fixture
def lr() -> torch.Tensor:
    return torch.rand(1, 3, 13, 18, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("scale", "spec"), OURS, ids=str)
def test_a_file_without_our_recipe_is_recognised(tmp_path, lr, scale, spec):
    recipe, network = network_of(scale, spec)
    export(network, tmp_path / "my net.pth", recipe)
    found, loaded = load_model(tmp_path / "my net.pth")
    assert (found.name, found.scale, found.model) == ("my-net", scale, recipe.model)
    torch.testing.assert_close(loaded(lr), network(lr), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("scale", "spec"), OURS[:6], ids=str)
def test_spandrel_opens_what_we_make(tmp_path, spandrel, lr, scale, spec):
    recipe, network = network_of(scale, spec)
    network.train()(lr)
    for name in ("a.pth", "a.safetensors"):
        export(network, tmp_path / name, recipe)
        theirs = spandrel.ModelLoader().load_from_file(tmp_path / name)
        assert theirs.scale == scale
        expected = network.eval()(lr)
        torch.testing.assert_close(theirs.model.eval()(lr), expected, rtol=1e-5, atol=1e-5 * expected.abs().max())


def test_real_esrgans_compact_gives_spandrels_pixels(tmp_path, spandrel, animevideo, lr):
    theirs = spandrel.ModelLoader().load_from_file(animevideo).model.eval()(lr).detach()
    recipe, network = load_model(animevideo)
    assert (recipe.scale, recipe.model.features, recipe.model.convs) == (4, 64, 16)
    torch.testing.assert_close(network.requires_grad_(False)(lr), theirs, rtol=0, atol=1e-5)
    for name in ("again.pth", "again.safetensors"):
        export(network, tmp_path / name, recipe)
        torch.testing.assert_close(load_model(tmp_path / name)[1](lr).detach(), theirs, rtol=0, atol=1e-5)
    onnxruntime = pytest.importorskip("onnxruntime")
    export(network, tmp_path / "again.onnx", recipe)
    (made,) = onnxruntime.InferenceSession(tmp_path / "again.onnx").run(["sr"], {"lr": lr.numpy()})
    torch.testing.assert_close(torch.from_numpy(made), theirs, rtol=0, atol=1e-5)


def to_old_esrgan(name: str, blocks: int, ups: int) -> str:
    name = re.sub(r"body\.(\d+)\.rdb(\d)\.conv(\d)\.", r"model.1.sub.\1.RDB\2.conv\3.0.", name)
    layers = {"conv_first": 0, "conv_body": f"1.sub.{blocks}", "conv_hr": 3 * ups + 2, "conv_last": 3 * ups + 4}
    layers |= {f"conv_up{number}": 3 * number for number in range(1, ups + 1)}
    for layer, number in layers.items():
        name = re.sub(rf"^{layer}\.", f"model.{number}.", name)
    return name


def to_new_esrgan(name: str) -> str:
    name = re.sub(r"body\.(\d+)\.rdb(\d)", r"RRDB_trunk.\1.RDB\2", name).replace("conv_body", "trunk_conv")
    return re.sub(r"conv_up(\d)", r"upconv\1", name).replace("conv_hr", "HRconv")


@pytest.mark.parametrize("scale", [2, 4])
@pytest.mark.parametrize("layout", ["old", "new"])
def test_esrgans_own_layouts(tmp_path, lr, layout, scale):
    recipe, network = network_of(scale, {"kind": "rrdb", "features": 8, "blocks": 2})
    rename = to_new_esrgan if layout == "new" else lambda name: to_old_esrgan(name, 2, scale // 2)
    torch.save({rename(name): tensor for name, tensor in network.state_dict().items()}, tmp_path / "a.pth")
    found, loaded = load_model(tmp_path / "a.pth")
    assert found.model == recipe.model
    torch.testing.assert_close(loaded(lr), network(lr))


def test_kairs_msrresnet(tmp_path, lr):
    _, network = network_of(4, {"kind": "msrresnet", "features": 8, "blocks": 2})
    theirs = {
        name.replace("body.", "recon_trunk.").replace("conv_hr", "HRconv"): tensor
        for name, tensor in network.state_dict().items()
    }
    torch.save({"module." + name: tensor for name, tensor in theirs.items()}, tmp_path / "a.pth")
    torch.testing.assert_close(load_model(tmp_path / "a.pth")[1](lr), network(lr))


def basicsr_edsr(name: str) -> str:
    name = re.sub(r"blocks\.(\d+)\.branch\.0", r"body.\1.conv1", name)
    name = re.sub(r"blocks\.(\d+)\.branch\.2", r"body.\1.conv2", name)
    name = name.replace("head.0", "conv_first").replace("join.0", "conv_after_body").replace("tail.", "conv_last.")
    return name.replace("upsampler.0", "upsample.0").replace("upsampler.1", "upsample.2")


def torchsr_edsr(name: str) -> str:
    name = re.sub(r"blocks\.(\d+)\.branch\.(\d)", r"body.\1.body.\2", name).replace("join.0", "body.2")
    name = name.replace("tail.", "tail.1.").replace("upsampler.0", "tail.0.0").replace("upsampler.1", "tail.0.2")
    return name


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("rename", [basicsr_edsr, torchsr_edsr])
def test_edsr_whose_pixels_go_to_255(tmp_path, lr, rename, scale):
    spec = {"kind": "residual", "features": 8, "blocks": 2, **EDSR}
    recipe, network = network_of(scale, spec)
    weights = network.state_dict()
    # So theirs compute: 255 (x - mean) goes in, and what comes out is divided.
    theirs = {rename(n): tensor * 255 if n.endswith("bias") else tensor for n, tensor in weights.items()}
    theirs |= {"sub_mean.weight": torch.eye(3).view(3, 3, 1, 1)} if rename is torchsr_edsr else {}
    save_file(theirs, tmp_path / "a.safetensors")
    found, loaded = load_model(tmp_path / "a.safetensors")
    assert found.model == recipe.model
    torch.testing.assert_close(loaded(lr), network(lr), rtol=1e-5, atol=1e-6)
    plain = network(lr)
    network.load_state_dict(
        {name: tensor * 255 if name.endswith("bias") else tensor for name, tensor in weights.items()}
    )
    network.mean.mul_(255)
    torch.testing.assert_close(network(lr * 255) / 255, plain, rtol=1e-4, atol=1e-5)


def test_other_programs_know_no_srcnn(tmp_path):
    recipe, network = network_of(4, {"kind": "srcnn"})
    with pytest.raises(UserError, match="other programs know no model"):
        export(network, tmp_path / "a.pth", recipe)
    export(network, tmp_path / "a.safetensors", recipe)
    assert load_model(tmp_path / "a.safetensors")[0] == recipe


class _Code:
    def __reduce__(self):
        return os.system, ("true",)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"a": _Code()}, "holds code, which is not run"),
        ({"params": {"a": 1}}, "holds no weights"),
        ([1, 2], "holds no weights"),
    ],
)
def test_what_is_no_file_of_weights(tmp_path, content, words):
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(UserError, match=words) as error:
        load_model(tmp_path / "a.pth")
    assert "\n" not in str(error.value)


def test_a_file_that_is_cut(tmp_path):
    torch.save({"a": torch.zeros(9)}, tmp_path / "a.pth")
    (tmp_path / "a.pth").write_bytes((tmp_path / "a.pth").read_bytes()[:300])
    with pytest.raises(UserError, match=r"missing or damaged|holds code") as error:
        load_model(tmp_path / "a.pth")
    assert "\n" not in str(error.value)


def test_a_network_that_nobody_knows(tmp_path, spandrel):
    torch.save({"strange.weight": torch.zeros(9)}, tmp_path / "a.pth")
    with pytest.raises(UserError, match="neither srcluster nor spandrel knows"):
        load_model(tmp_path / "a.pth")


def test_names_that_two_networks_have(tmp_path, spandrel):
    """SwinIR and RCAN have EDSR's conv_after_body."""
    names = ("conv_first", "conv_after_body", "upsample.0", "conv_last", "layers.0")
    torch.save({f"{name}.weight": torch.zeros(12, 3, 3, 3) for name in names}, tmp_path / "a.pth")
    with pytest.raises(UserError, match="neither srcluster nor spandrel knows"):
        load_model(tmp_path / "a.pth")


def test_a_network_that_spandrel_alone_knows(tmp_path, spandrel, lr):
    from spandrel.architectures.PLKSR import RealPLKSR

    torch.manual_seed(0)
    theirs = RealPLKSR(dim=8, n_blocks=2, upscaling_factor=4, kernel_size=5).eval().requires_grad_(False)
    torch.save({"params": theirs.state_dict()}, tmp_path / "a.pth")
    recipe, network = load_model(tmp_path / "a.pth")
    assert recipe is None
    assert network.scale == 4
    torch.testing.assert_close(network(lr), theirs(lr))
    with pytest.raises(UserError, match=r"export it to \.onnx"):
        export(network, tmp_path / "b.pth", recipe)
