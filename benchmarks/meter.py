"""What a server's processes cost: CPU seconds, peak RSS, bytes written, bytes on disk.

CPU counts user and system time of the process, its descendants and those that it has waited for; it
moves in ticks of 10 ms, so what is measured should take a second. RSS is sampled, so that a peak
shorter than the gap between two looks is missed; memory-mapped files count in it.
"""

import os
import platform
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

MIB = 1 << 20
RSS_INTERVAL_S = 0.05
TREE_S = 1.0
"""How often new descendants are looked for."""
IDLE_CPU_RATIO = 0.05
"""Idle is less than this share of one core …"""
IDLE_S = 3.0
"""… for so long."""
IDLE_INTERVAL_S = 1.0


class Meter:
    """Reads the counters of one process tree."""

    def __init__(self, pid: int) -> None:
        self._process = psutil.Process(pid)
        self._tree: list[psutil.Process] = []
        self._tree_until_s = 0.0

    def cpu_s(self) -> float:
        """User and system CPU seconds since the process began."""
        total = 0.0
        for process in self._processes():
            with suppress(psutil.NoSuchProcess):
                # user, system, and both of the children that ended
                total += sum(process.cpu_times()[:4])
        return total

    def written_bytes(self) -> int:
        """Bytes that the tree caused to be written to storage since it began."""
        total = 0
        for process in self._processes():
            with suppress(psutil.NoSuchProcess):
                total += process.io_counters().write_bytes
        return total

    def rss_bytes(self) -> int:
        """Resident memory of the tree now."""
        total = 0
        for process in self._processes():
            with suppress(psutil.NoSuchProcess):
                total += process.memory_info().rss
        return total

    @contextmanager
    def watch_rss(self) -> Iterator[list[int]]:
        """Keeps the peak RSS in the only item of the list while the block runs."""
        peak = [self.rss_bytes()]
        stopped = threading.Event()

        def look() -> None:
            while not stopped.wait(RSS_INTERVAL_S):
                peak[0] = max(peak[0], self.rss_bytes())

        thread = threading.Thread(target=look, name="rss")
        thread.start()
        try:
            yield peak
        finally:
            stopped.set()
            thread.join()

    def wait_idle(self, timeout_s: float) -> bool:
        """Waits until the tree has used next to no CPU for a while; False if it never does."""
        deadline_s = time.monotonic() + timeout_s
        calm_s, cpu_s = time.monotonic(), self.cpu_s()
        while time.monotonic() < deadline_s:
            time.sleep(IDLE_INTERVAL_S)
            busy_s = self.cpu_s() - cpu_s
            cpu_s += busy_s
            if busy_s > IDLE_CPU_RATIO * IDLE_INTERVAL_S:
                calm_s = time.monotonic()
            elif time.monotonic() - calm_s >= IDLE_S:
                return True
        return False

    def _processes(self) -> list[psutil.Process]:
        """The tree; finding it reads all of /proc, which would load the machine every time."""
        if time.monotonic() >= self._tree_until_s:
            with suppress(psutil.NoSuchProcess):
                self._tree = [self._process, *self._process.children(recursive=True)]
            self._tree_until_s = time.monotonic() + TREE_S
        return self._tree


def disk_bytes(folder: Path) -> int:
    """Length of all files below a folder."""
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file())


def machine() -> str:
    """Kind of machine, for the table: CPU model, cores, system."""
    model = platform.processor() or platform.machine()
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    return f"{model}, {os.cpu_count()} cores, {platform.system()}"
