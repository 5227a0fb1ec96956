"""What other programs are given makes the same pixels."""

import pytest
import torch

from srcluster.errors import UserError
from srcluster.models import build
from srcluster.models.export import export
from srcluster.recipe import RRDB, SPAN, SRCNN, Compact, Interpolation, Residual

EXPORTED = [
    Interpolation(kernel="bicubic"),
    SRCNN(kind="srcnn", init="he"),
    Residual(kind="residual", features=4, blocks=1),
    Residual(kind="residual", features=4, blocks=1, upsampler="deconv3", base="bilinear", output="linear"),
    Residual(kind="residual", features=4, blocks=1, upsampler="nearest_conv", activation="relu", output="tanh"),
    Compact(kind="compact", features=4, convs=1),
    SPAN(kind="span", features=4, norm=False),
]


@pytest.fixture
def runtime():
    pytest.importorskip("onnxscript")
    return pytest.importorskip("onnxruntime")


@pytest.mark.parametrize("ending", ["pt2", "onnx"])
@pytest.mark.parametrize("spec", EXPORTED, ids=str)
def test_an_exported_network_takes_any_size(tmp_path, runtime, spec, ending):
    network, path = build(spec, 3).eval(), tmp_path / f"a.{ending}"
    export(network, path, None)
    if ending == "onnx":
        session = runtime.InferenceSession(path)

        def exported(lr):
            return torch.from_numpy(session.run(None, {"lr": lr.numpy()})[0])
    else:
        exported = torch.export.load(path).module()
    for shape in ((1, 3, 7, 31), (3, 3, 20, 20), (1, 3, 3, 3)):
        lr = torch.rand(shape)
        torch.testing.assert_close(exported(lr), network(lr), rtol=0, atol=1e-4)


def test_float16(tmp_path, runtime):
    torch.manual_seed(0)
    network = build(RRDB(kind="rrdb", features=4, blocks=1), 2).eval()
    export(network, tmp_path / "a_fp16.onnx", None)
    session = runtime.InferenceSession(tmp_path / "a_fp16.onnx")
    lr = torch.rand(1, 3, 6, 8)
    (made,) = session.run(None, {"lr": lr.half().numpy()})
    assert made.dtype == "float16"
    torch.testing.assert_close(torch.from_numpy(made).float(), network(lr), rtol=0, atol=0.01)


def test_a_file_that_makes_other_pixels_is_not_written(tmp_path, runtime):
    network = build(Compact(kind="compact", features=4, convs=1), 2).eval()
    with torch.no_grad():
        # float16 ends at 65504.
        network.body[0].weight.mul_(1e6)
        network.body[2].weight.mul_(1e-6)
    with pytest.raises(UserError, match=r"a\.fp16\.onnx is not written: .* differ by up to .*: take float32"):
        export(network, tmp_path / "a.fp16.onnx", None)
    assert not (tmp_path / "a.fp16.onnx").exists()


def test_what_can_not_be_exported(tmp_path, monkeypatch):
    network = build(Interpolation(), 4)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"srcluster\[export\]"):
        export(network, tmp_path / "a.onnx", None)
    with pytest.raises(UserError, match=r"exported to \.pth, \.safetensors, \.onnx or \.pt2, not to a\.pt"):
        export(network, tmp_path / "a.pt", None)
    with pytest.raises(UserError, match="weights alone, which do not make this network"):
        export(network, tmp_path / "a.pth", None)
