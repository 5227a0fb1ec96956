"""How ranks find each other."""

import pytest

from srcluster.errors import UserError
from srcluster.train.process_group import _interface


def test_an_address_of_no_interface_is_told():
    assert _interface("127.0.0.1").startswith("lo")
    with pytest.raises(UserError, match=r"Ray knows this host by 192\.0\.2\.1, which is on none"):
        _interface("192.0.2.1")
