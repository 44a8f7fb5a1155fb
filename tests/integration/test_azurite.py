"""The Azure server of the tests is what the tests take it for."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from deltalake import DeltaTable, write_deltalake
from obstore.exceptions import AlreadyExistsError
from pyarrow import table

from tests.integration.azurite import Azurite
from tests.integration.faulty_proxy import FaultyProxy

WRITERS = 8


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Azurite]:
    with Azurite(tmp_path_factory.mktemp("azurite")) as started:
        yield started


def test_of_many_creators_of_one_object_one_wins(server: Azurite) -> None:
    container = server.access.make_container()

    def create(number: int) -> int:
        try:
            server.access.objects(container).put("race", b"%d" % number, mode="create")
        except AlreadyExistsError:
            return 0
        return 1

    with ThreadPoolExecutor(WRITERS) as pool:
        assert sum(pool.map(create, range(WRITERS))) == 1


def test_delta_commits_pass_through_the_proxy(server: Azurite) -> None:
    with FaultyProxy(server.url) as proxy:
        access = server.access.through(proxy.url)
        container = access.make_container("lakes")
        options = access.storage_options()
        # The third is the first that looks for what came after a version other than the first.
        for number in range(3):
            write_deltalake(
                f"az://{container}/lake",
                table({"number": [number]}),
                mode="append",
                storage_options=options,
            )
        lake = DeltaTable(f"az://{container}/lake", storage_options=options)
        assert lake.to_pyarrow_table().num_rows == 3
        assert any(
            target.startswith("/devstoreaccount#/lakes/lake/") for _, target in proxy.counts()
        )


def test_containers_outlive_a_stop(tmp_path: Path) -> None:
    with Azurite(tmp_path) as server:
        container = server.access.make_container()
        server.access.objects(container).put("key", b"content")
        server.stop()
        server.start()
        assert bytes(server.access.objects(container).get("key").bytes()) == b"content"
