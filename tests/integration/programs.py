"""Programs that the tests run: where each is looked for, and what is said when there is none.

In this order: the path in an environment variable, `.servers/` as `make servers` fills it, PATH if
the version fits, the official image if a container engine answers. Else the test skips and says
what would help; with `PROMBRIDGE_REQUIRE_SERVERS=1` it fails instead.
"""

import functools
import gc
import os
import platform
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import pytest

from tests.integration.processes import REPOSITORY

SERVERS = REPOSITORY / ".servers"


@dataclass(frozen=True)
class Wanted:
    """A program that the tests want.

    Attributes:
        what: for messages.
        variable: the environment variable that may hold its path.
        name: in `.servers/`.
        name_on_path: what it is called elsewhere.
        version_pattern: matches the start of what it says of its version; its one group is that.
        version_argument: makes it say so.
        image: has it too, linked statically.
        inside: where in the image.
    """

    what: str
    variable: str
    name: str
    name_on_path: str
    version_pattern: str
    version_argument: str = "--version"
    image: str = ""
    inside: str = ""


def find(wanted: Wanted) -> tuple[Path, str]:
    """Path and version of the program, or a skip that says how to get one."""
    found = look_for(wanted)
    if found is None:
        unavailable(
            f"no {wanted.what} here: run `make servers`, which says what it lacks, set "
            f"{wanted.variable} to the path of one, put one on PATH"
            + (", or start a container engine" if wanted.image else "")
        )
    return found


def unavailable(message: str) -> NoReturn:
    """Skips the test; fails it where every server has to be there."""
    if os.environ.get("PROMBRIDGE_REQUIRE_SERVERS") == "1":
        pytest.fail(message)
    pytest.skip(message)


@functools.cache
def look_for(wanted: Wanted) -> tuple[Path, str] | None:
    """Path and version of the program, or None."""
    named = os.environ.get(wanted.variable)
    if named:
        found = _program(Path(named), wanted)
        assert found is not None, f"{wanted.variable}={named} is no {wanted.what}"
        return found
    for path in (SERVERS / wanted.name, shutil.which(wanted.name_on_path)):
        found = _program(Path(path), wanted) if path is not None else None
        if found is not None:
            return found
    return _program_from_image(wanted)


def _program(path: Path, wanted: Wanted) -> tuple[Path, str] | None:
    """What is at this path, if it is what is wanted and runs."""
    if not path.is_file():
        return None
    try:
        run = subprocess.run(
            [path, wanted.version_argument],
            check=True,
            timeout=30,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    matched = re.match(wanted.version_pattern, run.stdout)
    return None if matched is None else (path, matched[1])


def _program_from_image(wanted: Wanted) -> tuple[Path, str] | None:
    """The program out of the official image, where a container engine answers.

    It is linked statically, so it runs outside of the container as the others do, and the tests
    need no road from a container to the loopback of its host.
    """
    if sys.platform != "linux" or platform.machine() not in {"x86_64", "aarch64"}:
        return None
    if not wanted.image:
        return None
    folder = SERVERS / "image" / wanted.image.replace("/", "_").replace(":", "_")
    path = folder / Path(wanted.inside).name
    if not path.is_file():
        with warnings.catch_warnings():
            # Without an engine the client library leaves its socket to the garbage collector.
            warnings.simplefilter("ignore", ResourceWarning)
            _copy_from_image(wanted.image, wanted.inside, path)
            gc.collect()
    return _program(path, wanted)


def _copy_from_image(image: str, inside: str, path: Path) -> None:
    """Copies one file out of an image; nothing happens where no engine answers."""
    try:
        from testcontainers.core.docker_client import DockerClient  # noqa: PLC0415 - slow, rare

        engine = DockerClient().client
        engine.ping()
    except Exception:  # noqa: BLE001 - whatever is wrong with it, there is no engine to be had
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    engine.images.pull(image)
    container = engine.containers.create(image)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        archive, made = Path(folder, "archive"), Path(folder, path.name)
        try:
            stream, _ = container.get_archive(f"/{inside}")
            with archive.open("wb") as file:
                file.writelines(stream)
        finally:
            container.remove()
            engine.close()
        with tarfile.open(archive) as tar, made.open("wb") as file:
            member = tar.extractfile(path.name)
            assert member is not None, f"{image} has no /{inside}"
            shutil.copyfileobj(member, file)
        made.chmod(0o755)
        made.rename(path)
