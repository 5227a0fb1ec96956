"""The storage module against a real S3 store: its answers, its faults, and its disappearance."""

import pytest

from srcluster import storage

pytestmark = pytest.mark.cluster


def test_what_is_written_is_read(s3):
    url = storage.join(s3.bucket_url, "written")
    storage.write(url, b"photograph")
    assert storage.read(url) == b"photograph"
