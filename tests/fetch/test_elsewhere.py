"""Data sets that no program may fetch: how a person gets them, and into which folder."""

import pytest

from srcluster.errors import UserError
from srcluster.fetch.__main__ import ELSEWHERE, fetch


@pytest.mark.parametrize("name", ELSEWHERE)
def test_it_is_said_how_to_get_it(tmp_path, name):
    with pytest.raises(
        UserError, match=rf"{name} is .* https?://.* {name}(/HR)? within the folder that SRCLUSTER_DATA"
    ):
        fetch([name], str(tmp_path))
    assert not list(tmp_path.iterdir())
