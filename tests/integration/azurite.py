"""A real Azure blob server: Azurite, over a folder.

It is a program of Node; looked for in the path that `PROMBRIDGE_TEST_AZURITE` names, in `.servers/`
and on PATH as `azurite-blob`. Its image holds Node besides, so nothing is taken out of it: whoever
has a container engine runs it and says where it is. `azure_access` prefers a running server:
`PROMBRIDGE_TEST_AZURE_ENDPOINT` (`http://127.0.0.1:10000/devstoreaccount1`), with
`AZURE_STORAGE_ACCOUNT_NAME` and `AZURE_STORAGE_ACCOUNT_KEY` if they are not the emulator's.
"""

import base64
import hashlib
import hmac
import http
import os
import urllib.parse
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

from obstore.store import AzureStore

from tests.integration.processes import ServerProcess, fetch
from tests.integration.programs import Wanted, find

AZURITE = Wanted(
    what="Azurite",
    variable="PROMBRIDGE_TEST_AZURITE",
    name="azurite/node_modules/.bin/azurite-blob",
    name_on_path="azurite-blob",
    version_pattern=r"(\d+\.\S+)",
)

# Every emulator has this account; Microsoft published its key.
EMULATOR_ACCOUNT = "devstoreaccount1"
EMULATOR_KEY = (
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
)
EMULATOR_ADDRESS = "AZURITE_BLOB_STORAGE_URL"


@dataclass(frozen=True)
class AzureAccess:
    """Where a blob server is, and as whom it is used."""

    endpoint: str
    """With the account's name as its path."""

    account: str = EMULATOR_ACCOUNT
    key: str = EMULATOR_KEY

    def through(self, url: str) -> Self:
        """The same by another road: a proxy that passes `Host` on."""
        return replace(self, endpoint=url + urllib.parse.urlsplit(self.endpoint).path)

    @property
    def is_emulator(self) -> bool:
        """Whether it is one: they alone have the account in the path."""
        return urllib.parse.urlsplit(self.endpoint).path == f"/{self.account}"

    def storage_options(self) -> dict[str, str]:
        """For delta-rs and for obstore, in this process.

        Of an emulator they have to be told that it is one: Azurite lists more than it is asked
        for (it passes over `startFrom`), and then they look themselves. Where it listens they learn
        from the environment alone, when a store is opened; so what this access says there holds for
        all that are opened until another access is asked.
        """
        options = {
            "azure_storage_account_name": self.account,
            "azure_storage_account_key": self.key,
        }
        if not self.is_emulator:
            return options | {"azure_storage_endpoint": self.endpoint, "azure_allow_http": "true"}
        os.environ[EMULATOR_ADDRESS] = self._address
        return options | {"azure_storage_use_emulator": "true"}

    def environment(self) -> dict[str, str]:
        """What a process needs in its environment to be let in."""
        options = {name.upper(): value for name, value in self.storage_options().items()}
        return options | ({EMULATOR_ADDRESS: self._address} if self.is_emulator else {})

    @property
    def _address(self) -> str:
        return self.endpoint.removesuffix(f"/{self.account}")

    def objects(self, container: str) -> AzureStore:
        """The container as obstore sees it, without retries."""
        return AzureStore(
            container,
            account_name=self.account,
            account_key=self.key,
            endpoint=self.endpoint,
            client_options={"allow_http": True},
            retry_config={"max_retries": 0},
        )

    def make_container(self, name: str = "") -> str:
        """Makes a container, under a name of its own if none is given; returns the name."""
        container = name or f"prombridge-{uuid.uuid4().hex}"
        # obstore makes none. The signature is Azure's "Shared Key".
        path = f"{urllib.parse.urlsplit(self.endpoint).path}/{container}"
        headers = {
            "x-ms-date": datetime.now(UTC).strftime("%a, %d %b %Y %H:%M:%S GMT"),
            "x-ms-version": "2021-08-06",
        }
        signed = "\n".join(
            [
                "PUT",
                *[""] * 11,
                *(f"{name}:{value}" for name, value in sorted(headers.items())),
                f"/{self.account}{path}",
                "restype:container",
            ]
        )
        digest = hmac.digest(base64.b64decode(self.key), signed.encode(), hashlib.sha256)
        headers["Authorization"] = f"SharedKey {self.account}:{base64.b64encode(digest).decode()}"
        reply = fetch("PUT", f"{self.endpoint}/{container}?restype=container", b"", headers)
        assert reply.status == http.HTTPStatus.CREATED, reply
        return container


class Azurite(ServerProcess):
    """A blob server over a folder; its containers are there again after a restart."""

    def __init__(self, folder: Path, *, name: str = "azurite") -> None:
        program, self.version = find(AZURITE)

        def command(port: int) -> list[str]:
            return [
                str(program),
                "--blobHost=127.0.0.1",
                f"--blobPort={port}",
                f"--location={folder}",
                "--silent",
                "--disableTelemetry",
                # It knows fewer versions of the protocol than its clients.
                "--skipApiVersionCheck",
            ]

        super().__init__(name, folder, command, self.listens)

    @property
    def access(self) -> AzureAccess:
        """As the emulator's own account."""
        return AzureAccess(f"{self.url}/{EMULATOR_ACCOUNT}")

    def answers_ready(self) -> bool:
        """Whatever it answers without a signature, it answers."""
        fetch("GET", f"{self.url}/{EMULATOR_ACCOUNT}", timeout_s=5)
        return True


@contextmanager
def azure_access(folder: Path) -> Iterator[AzureAccess]:
    """Some blob server: the one at the address, else an Azurite."""
    endpoint = os.environ.get("PROMBRIDGE_TEST_AZURE_ENDPOINT")
    if endpoint:
        yield AzureAccess(
            endpoint.rstrip("/"),
            os.environ.get("AZURE_STORAGE_ACCOUNT_NAME") or EMULATOR_ACCOUNT,
            os.environ.get("AZURE_STORAGE_ACCOUNT_KEY") or EMULATOR_KEY,
        )
        return
    with Azurite(folder) as server:
        yield server.access
