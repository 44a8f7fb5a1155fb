"""The object stores of the contracts, started once for all of them."""

from collections.abc import Iterator

import pytest

from tests.integration.azurite import AzureAccess, azure_access
from tests.integration.object_stores import S3Access, s3_access


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Access]:
    with s3_access(tmp_path_factory.mktemp("s3")) as access:
        yield access


@pytest.fixture(scope="session")
def azure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AzureAccess]:
    with azure_access(tmp_path_factory.mktemp("azure")) as access:
        yield access
