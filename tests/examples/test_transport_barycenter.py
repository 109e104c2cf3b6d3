"""The barycenter against another method, and plans from its dual variables."""

import pytest


@pytest.mark.slow
def test_barycenter(example):
    distance, missed = example.main(20, 1e-2)
    assert distance < 1e-5
    assert missed < 1e-6
