"""A provider and a platform for each test of faults."""

import pytest

from tests.faults.platform import Platform
from tests.faults.upstream import Upstream


@pytest.fixture(scope="module")
def upstream():
    upstream = Upstream()
    upstream.start()
    yield upstream
    upstream.stop()


@pytest.fixture
def platform(upstream):
    upstream.generated.clear()
    platform = Platform(upstream.port)
    platform.prepare()
    yield platform
    platform.close()
