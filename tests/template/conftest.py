"""Fixtures: the template as it is deployed, once for each shape of a deployment."""

from __future__ import annotations

import pytest

from tests.template.deployment import SHAPES, Deployment


@pytest.fixture(params=sorted(SHAPES))
def deployment(request: pytest.FixtureRequest) -> Deployment:
    """A deployment of each shape."""
    return Deployment(*SHAPES[request.param])
