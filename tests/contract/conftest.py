"""The case of a contract test, by its name."""

import pytest

from tests.registry import CASES, get_case, get_quadratic_case


@pytest.fixture
def case(request):
    return get_case(request.param) if request.param in CASES else get_quadratic_case(request.param)
