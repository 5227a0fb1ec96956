"""The perceptual objective, against arithmetic written out, and with the weights of ImageNet."""

from itertools import pairwise

import pytest
import torch
from torch.nn import functional as F

from srcluster import models
from srcluster.data import benchmarks
from srcluster.data.degradation import margin
from srcluster.errors import UserError
from srcluster.objectives import build
from srcluster.objectives.vgg import VGGFeatures, distance
from srcluster.objectives.weights import convolutions, read
from srcluster.recipe import recipe_from
from srcluster.recipe.objective import VGG, VGG_LAYERS
from srcluster.training.checkpoint import State
from srcluster.training.loop import Step
from srcluster.training.optimizer import make_optimizer
from srcluster.training.precision import choose
from srcluster.training.ranks import Ranks

CPU = torch.device("cpu")


def images(*shape: int) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(sum(shape)))


def spec(file: str, layers="relu2_2", **said) -> VGG:
    return VGG(kind="vgg", layers=layers, weights=file, **{"normalization": "caffe", **said})


def network(said: VGG, dtype: torch.dtype = torch.float32) -> VGGFeatures:
    resolved, tensors = read(said)
    return VGGFeatures(said.network, tuple(said.layers), tensors, resolved.normalization, dtype)


def by_hand(state: dict[str, torch.Tensor], rgb: torch.Tensor) -> dict[str, torch.Tensor]:
    """VGG16 as table 1 of its paper says it, from normalised images, in float64."""
    features, found, index = rgb.double(), {}, 0
    for block, depth in enumerate((2, 2, 3, 3, 3), 1):
        for number in range(1, depth + 1):
            if f"features.{index}.weight" not in state:
                return found
            weight, bias = (state[f"features.{index}.{part}"].double() for part in ("weight", "bias"))
            height, width = features.shape[-2:]
            padded = F.pad(features, (1, 1, 1, 1))
            features = bias.view(1, -1, 1, 1) + sum(
                torch.einsum("oi,bihw->bohw", weight[:, :, y, x], padded[:, :, y : y + height, x : x + width])
                for y in range(3)
                for x in range(3)
            )
            found[f"conv{block}_{number}"] = features
            features = features.clamp(min=0)
            found[f"relu{block}_{number}"] = features
            index += 2
        index += 1
        height, width = (side // 2 * 2 for side in features.shape[-2:])
        corners = [features[..., y:height:2, x:width:2] for y in (0, 1) for x in (0, 1)]
        features = torch.stack(corners).amax(0)
    return found


def test_each_layer_is_where_torchvision_has_it():
    indices = {name: index for name, index, _ in convolutions()}
    assert list(indices.values()) == [0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28]
    # Both readings of "the 7th layer".
    assert indices["conv2_2"] == 7
    assert list(indices).index("conv3_3") + 1 == 7
    assert [sides for *_, sides in convolutions()][:3] == [(3, 64), (64, 64), (64, 128)]
    assert all(before[1] == after[0] for before, after in pairwise([sides for *_, sides in convolutions()]))


@pytest.mark.parametrize("normalization", ["torchvision", "caffe"])
def test_the_network_is_that_of_the_paper(full_file, normalization):
    rgb = images(2, 3, 37, 34)
    if normalization == "caffe":
        normalised = rgb * 255 - torch.tensor([123.68, 116.779, 103.939]).view(1, 3, 1, 1)
    else:
        mean, deviation = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]]).view(2, 1, 3, 1, 1)
        normalised = (rgb - mean) / deviation
    expected = by_hand(torch.load(full_file, weights_only=True), normalised)
    every = dict.fromkeys(VGG_LAYERS["vgg16"], 1.0)
    for name, found in zip(every, network(spec(full_file, every, normalization=normalization))(rgb), strict=True):
        scale = float(expected[name].abs().max())
        torch.testing.assert_close(found.double(), expected[name], rtol=0, atol=1e-5 * scale, msg=name)


def test_a_convolution_that_is_asked_for_is_not_overwritten_by_its_relu(weights_file):
    before, after = network(spec(weights_file, {"conv1_1": 1, "relu2_2": 1}))(images(1, 3, 16, 16))
    assert float(before.min()) < 0
    assert float(after.min()) == 0


def test_it_is_frozen_and_stops_at_the_deepest_layer(weights_file):
    part = network(spec(weights_file, {"relu2_1": 1, "conv1_2": 1}))
    assert [name for name, _ in part.parts.named_children()] == [
        "conv1_1",
        "relu1_1",
        "conv1_2",
        "relu1_2",
        "pool2",
        "conv2_1",
        "relu2_1",
    ]
    assert not any(weight.requires_grad for weight in part.parameters())


@pytest.mark.parametrize("kind", ["mse", "l1", "cosine", "gram"])
def test_distances(kind):
    a, b = images(2, 5, 3, 4), images(2, 5, 4, 3).reshape(2, 5, 3, 4)
    match kind:
        case "mse":
            expected = ((a - b) ** 2).sum() / (2 * 5 * 3 * 4)
        case "l1":
            expected = (a - b).abs().sum() / (2 * 5 * 3 * 4)
        case "cosine":
            angles = torch.einsum("bchw,bchw->bhw", a, b) / (a.norm(dim=1) * b.norm(dim=1))
            expected = (1 - angles).mean()
        case "gram":
            gram_a, gram_b = (torch.einsum("bihw,bjhw->bij", x, x) / (5 * 3 * 4) for x in (a, b))
            expected = ((gram_a - gram_b) ** 2).sum() / 2
    torch.testing.assert_close(distance(kind, a, b), expected, rtol=1e-5, atol=1e-7)
    assert distance(kind, a, a) == 0


def test_style_has_no_place_and_content_has():
    a = images(1, 5, 4, 4)
    assert distance("gram", a, a.flip(-1)) == pytest.approx(0, abs=1e-12)
    assert distance("mse", a, a.flip(-1)) > 0.01


def test_the_direction_of_nothing_is_no_infinite_gradient():
    a = torch.zeros(1, 5, 2, 2, requires_grad=True)
    distance("cosine", a, images(1, 5, 2, 2)).backward()
    assert float(a.grad.abs().max()) <= 1e3
    assert distance("cosine", a, a) == 0


@pytest.mark.parametrize("kind", ["mse", "l1", "cosine", "gram"])
def test_layers_add_up_and_the_centre_of_hr_is_meant(weights_file, kind):
    sr, hr = images(2, 3, 20, 24), images(2, 3, 24, 32)
    centre = hr[:, :, 2:22, 4:28]
    both = build(spec(weights_file, {"relu1_2": 2.0, "conv2_1": 0.5}, distance=kind), CPU, torch.float32)
    one, other = (
        build(spec(weights_file, layer, distance=kind), CPU, torch.float32)(sr, centre)
        for layer in ("relu1_2", "conv2_1")
    )
    torch.testing.assert_close(both(sr, hr), 2 * one + 0.5 * other)
    assert both(centre, hr) == 0
    moved = sr.clone().requires_grad_()
    both(moved, hr).backward()
    assert bool(moved.grad.isfinite().all())
    assert all(float(plane.abs().max()) > 0 for image in moved.grad for plane in image)


def test_bf16_comes_close(weights_file):
    sr, hr = images(2, 3, 32, 32).requires_grad_(), images(2, 3, 32, 36)[..., 2:34]
    losses, gradients = [], []
    for dtype in (torch.float32, torch.bfloat16):
        loss = build(spec(weights_file), CPU, dtype)(sr, hr)
        losses.append(float(loss.detach()))
        gradients.append(torch.autograd.grad(loss, sr)[0].flatten())
    assert losses[1] == pytest.approx(losses[0], rel=0.01)
    assert F.cosine_similarity(*gradients, dim=0) > 0.99
    assert losses[0] != losses[1]


def test_images_too_small_for_a_layer(full_file):
    loss = build(spec(full_file, "relu5_3"), CPU, torch.float32)
    with pytest.raises(UserError, match=r"SR of 15 x 64 is too small for relu5_3 .* it has 16 pixels on each side"):
        loss(images(1, 3, 64, 15), images(1, 3, 64, 64))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_network_learns_by_it(weights_file, precision):
    said = {"kind": "vgg", "weights": weights_file, "normalization": "torchvision"}
    model = {"kind": "srcnn", "features": [8, 4], "init": "he"}
    values = {"name": "mine", "steps": 12, "model": model, "precision": precision}
    recipe = recipe_from(values, {"objective": said, "optimizer.lr": 1e-2, "data.batch": 2})
    torch.manual_seed(0)
    network = models.build(recipe.model, recipe.scale)
    state = State(network, make_optimizer(network, recipe.optimizer), average={})
    step = Step(recipe, state, choose(precision), Ranks(0, 1))
    side = 48 + 2 * margin(recipe.scale)
    hr = (F.interpolate(images(2, 3, 12, 12), (side, side), mode="bilinear") * 255).byte()
    losses = []
    for _ in range(recipe.steps):
        step((hr,))
        losses.append(float(step.last_values.sum()))
    assert losses[-1] < 0.7 * losses[0]


def photograph() -> torch.Tensor:
    return torch.tensor(benchmarks.load("Wheel3", 4).images[0].hr[:128, :160]).permute(2, 0, 1)[None] / 255


def test_real_weights_are_those_of_the_input_that_is_said(real_weights):
    rgb = photograph()
    caffe = network(spec(str(real_weights / "vgg16_features_conv2_2.pth")))(rgb)[0]
    state = torch.load(real_weights / "vgg16_features_conv2_2.pth", weights_only=True)
    plain = by_hand(state, rgb * 255 - torch.tensor([123.68, 116.779, 103.939]).view(1, 3, 1, 1))["relu2_2"]
    torch.testing.assert_close(caffe.double(), plain, rtol=0, atol=1e-5 * float(plain.max()))
    rescaled, wrong = (
        network(spec(str(real_weights / "vgg16_features_conv2_2_tvnorm.pth"), normalization=normalization))(rgb)[0]
        for normalization in ("torchvision", "caffe")
    )
    inside = (..., slice(4, -4), slice(4, -4))
    largest = float(caffe.max())
    assert float((rescaled - caffe)[inside].abs().max()) < 4e-4 * largest
    assert float((wrong - caffe)[inside].abs().max()) > 0.5 * largest


@pytest.mark.parametrize("kind", ["mse", "l1", "cosine", "gram"])
def test_real_features_lead_from_a_blurred_photograph_to_the_sharp_one(real_weights, kind):
    hr = photograph()
    blurred = F.avg_pool2d(F.pad(hr, (2,) * 4, mode="replicate"), 5, stride=1)
    loss = build(spec(str(real_weights / "vgg16_features_conv2_2.pth"), distance=kind), CPU, torch.float32)
    steps = [float(loss(hr.lerp(blurred, share), hr)) for share in (0, 0.25, 0.5, 1)]
    assert steps[0] == 0
    assert steps == sorted(steps)
    sr = blurred.clone().requires_grad_()
    loss(sr, hr).backward()
    # What descends the loss is the sharpening of edges.
    assert float((sr.grad * (blurred - hr)).sum()) > 0


def test_vgg19_has_its_own_layers(tmp_path):
    """Its third block has four convolutions: what follows them has other numbers in torchvision's files."""
    assert [index for _, index, _ in convolutions("vgg19")][-4:] == [28, 30, 32, 34]
    with pytest.raises(ValueError, match="VGG19 has conv1_1 to conv5_4 and relu1_1 to relu5_4, and no 'relu6_1'"):
        VGG(kind="vgg", network="vgg19", layers="relu6_1")
    random, tensors = torch.Generator().manual_seed(0), {}
    for _, index, (before, after) in convolutions("vgg19"):
        tensors[f"features.{index}.weight"] = torch.randn(after, before, 3, 3, generator=random) / (3 * before**0.5)
        tensors[f"features.{index}.bias"] = torch.zeros(after)
    torch.save(tensors, tmp_path / "vgg19.pth")
    deepest = spec(str(tmp_path / "vgg19.pth"), network="vgg19", layers="relu5_4")
    (features,) = network(deepest)(torch.rand(1, 3, 32, 32))
    assert features.shape == (1, 512, 2, 2)
    with pytest.raises(UserError, match=r"is not of VGG16, which has no features\.16\.weight: get"):
        network(spec(str(tmp_path / "vgg19.pth")))


def test_the_vgg19_at_hand_compares_by_phi_2_2(real_weights):
    """`real_weights` has it up to conv3_1."""
    hr = photograph()
    file = str(real_weights / "vgg19_features_conv3_1.pth")
    loss = build(spec(file, network="vgg19", layers="relu2_2"), CPU, torch.float32)
    assert float(loss(hr, hr)) == 0 < float(loss(F.avg_pool2d(hr, 3, 1, 1), hr))
