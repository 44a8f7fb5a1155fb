"""A disk that is soon full: a tmpfs of a few megabytes that only the processes see that enter it.

It is mounted in a namespace of its own (`unshare`, `nsenter`), which needs no rights on most
machines, and goes with the process that holds the namespace, however the tests end.
"""

import shutil
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.integration.programs import unavailable


class SmallDisk:
    """A folder that holds so much, for the processes that are started with `prefix`."""

    def __init__(self, folder: Path, size_bytes: int) -> None:
        self.folder = folder
        self._size_bytes = size_bytes
        self._holder: subprocess.Popen[bytes] | None = None

    @property
    def prefix(self) -> list[str]:
        """Before a command line: it sees the disk; the others see an empty folder."""
        assert self._holder is not None
        target = f"--target={self._holder.pid}"
        return ["nsenter", target, "--user", "--mount", "--preserve-credentials", "--"]

    def seen(self, path: Path) -> Path:
        """Where the tests find what lies there."""
        assert self._holder is not None
        return Path(f"/proc/{self._holder.pid}/root") / path.relative_to("/")

    @property
    def free_bytes(self) -> int:
        """What still fits."""
        return shutil.disk_usage(self.seen(self.folder)).free

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        mount = 'mount -t tmpfs -o "size=$0" tmpfs "$1" && echo mounted && exec cat'
        size, folder = str(self._size_bytes), str(self.folder)
        try:
            self._holder = subprocess.Popen(
                ["unshare", "--map-root-user", "--mount", "sh", "-c", mount, size, folder],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
            )
        except FileNotFoundError:
            unavailable("no `unshare` here: a small disk cannot be mounted")
        assert self._holder.stdout is not None
        said = self._holder.stdout.readline()
        if said != b"mounted\n":
            self._end()
            unavailable(f"no small disk can be mounted here: {said.decode().strip()}")
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._end()

    def _end(self) -> None:
        """The holder ends with its input, and the disk with the holder."""
        holder, self._holder = self._holder, None
        assert holder is not None
        holder.communicate(timeout=10)
