"""Dependencies point down only, and what is pure stays pure."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LAYERS = [
    {"bridge.cli", "bridge.__main__"},
    {"bridge.app"},
    {"bridge.config", "bridge.metrics"},
    {"bridge.write", "bridge.read", "bridge.sql", "downsample"},
    {"bridge.lake", "bridge.http"},
    {"bridge.wire", "bridge.compiled"},
    {"bridge.model", "bridge.telemetry"},
    {"bridge.errors"},
]
SIBLINGS = {"bridge.write", "bridge.read", "bridge.sql", "downsample"}
IMPURE = {"os", "pathlib", "socket", "shutil", "subprocess", "tempfile", "asyncio", "aiohttp"}
PURE = ("bridge.wire", "bridge.model")


def modules() -> dict[str, Path]:
    found = {}
    for folder in ("bridge", "downsample"):
        for path in (ROOT / folder).rglob("*.py"):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def layer_of(name: str) -> tuple[int, str] | None:
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        prefix = ".".join(parts[:length])
        for depth, layer in enumerate(LAYERS):
            if prefix in layer:
                return depth, prefix
    return None


MODULES = modules()


@pytest.mark.parametrize("name", sorted(MODULES))
def test_imports_point_down(name: str) -> None:
    own = layer_of(name)
    if own is None:
        assert name == "bridge", f"{name} has no layer; say in LAYERS where it belongs"
        return
    for imported in imports(MODULES[name]):
        target = layer_of(imported)
        if target is None or target[1] == own[1]:
            continue
        assert target[0] >= own[0], f"{name} imports {imported}, which lies above it"
        if own[1] in SIBLINGS:
            assert target[1] not in SIBLINGS, f"{name} imports its sibling {imported}"


@pytest.mark.parametrize("name", sorted(name for name in MODULES if name.startswith(PURE)))
def test_wire_and_model_do_no_io(name: str) -> None:
    reached = {imported.split(".")[0] for imported in imports(MODULES[name])}
    assert not reached & IMPURE


def test_no_module_has_a_name_without_a_noun() -> None:
    vague = {"utils", "helpers", "common", "misc", "manager", "base", "core", "data", "info"}
    assert not [name for name in MODULES if name.split(".")[-1] in vague]


def test_package_files_hold_no_logic() -> None:
    for path in MODULES.values():
        if path.name == "__init__.py":
            body = ast.parse(path.read_text()).body
            # A name that users import may be handed on.
            assert all(isinstance(node, ast.Expr | ast.ImportFrom) for node in body), (
                f"logic in {path}"
            )
