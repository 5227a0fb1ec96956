"""Files of weights as other programs write them."""

import os
import sys
import types
from pathlib import Path

import pytest

# Beside the benchmark pictures.
ZOO = Path(os.environ.get("SRCLUSTER_DATA", "")).resolve().parent / "zoo" / "realesr-animevideov3.pth"


@pytest.fixture
def animevideo() -> Path:
    """Real-ESRGAN's Compact x4."""
    if not ZOO.is_file():
        pytest.skip(f"there is no {ZOO}")
    return ZOO


@pytest.fixture(scope="session")
def spandrel():
    """The library, with a stand-in for torchvision, which has no build beside the CPU torch of these machines.

    spandrel uses it in LaMa and RestoreFormer alone.
    """
    if "torchvision" not in sys.modules:
        functional = types.ModuleType("torchvision.transforms.functional")
        functional.InterpolationMode = functional.rotate = functional.normalize = None
        sys.modules |= {
            "torchvision": types.ModuleType("torchvision"),
            "torchvision.transforms": types.ModuleType("torchvision.transforms"),
            functional.__name__: functional,
        }
    return pytest.importorskip("spandrel")
