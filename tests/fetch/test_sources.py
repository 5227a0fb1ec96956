"""The table of data sets: it is sound, and says how a person gets what no program may fetch."""

import re

import pytest

from srcluster.errors import UserError
from srcluster.fetch.__main__ import ELSEWHERE, SOURCES, fetch


@pytest.mark.parametrize("name", ELSEWHERE)
def test_it_is_said_how_to_get_it(tmp_path, name):
    with pytest.raises(
        UserError, match=rf"{name} is .* https?://.* {name}(/HR)? within the folder that SRCLUSTER_DATA"
    ):
        fetch([name], str(tmp_path))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", SOURCES)
def test_the_table_is_sound(name):
    source = SOURCES[name]
    assert re.fullmatch(r"https?://[\w./-]+\.(zip|tgz|pth)", source.url)
    assert source.sha256 is None or re.fullmatch(r"[0-9a-f]{64}", source.sha256)
    # Plain http may lie about everything but a checksum.
    assert source.url.startswith("https") or source.sha256
    if name == "vgg16":
        assert source.sha256.startswith(re.search(r"-([0-9a-f]{8})\.", source.file)[1])
