"""The emission kernel and its twin."""

from types import ModuleType

import pytest

from bridge.read import _emission
from bridge.read.twins import emission as twin


@pytest.fixture(params=[_emission, twin], ids=["compiled", "twin"])
def kernel(request: pytest.FixtureRequest) -> ModuleType:
    module: ModuleType = request.param
    return module
