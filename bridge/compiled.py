"""Whether the compiled core is there."""

import importlib.util

MODULES = (
    "bridge.wire._crc32c",
    "bridge.wire._frames",
    "bridge.wire._lines",
    "bridge.wire._series",
    "bridge.wire._xor",
    "bridge.lake._rows",
    "bridge.read._emission",
    "downsample._merge",
    "downsample._rollup",
)


def missing_modules() -> list[str]:
    """Compiled modules that are not there; their Python twins do the work, slowly."""
    return [name for name in MODULES if importlib.util.find_spec(name) is None]
