"""Who imports whom: every room owns its outside libraries, and no import goes back up or sideways."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "onnx_basisprune"

# What each room may import of outside libraries; numpy and the standard library are free everywhere.
OWNED = {
    "data": {"PIL"},
    "graph": {"google", "onnx", "onnx_graphsurgeon"},
    "calibration": {"torch"},
    "planning": set(),
    "runtime": {"onnxruntime", "platformdirs", "psutil", "scipy"},
    "reporting": {"jinja2"},
    "cli": {"click", "rich", "tomli"},
}
REPORT_MODULES = {"results", "figures", "course_report", "benchmark_report", "inspection_report"}
FREE_MODULES = REPORT_MODULES | {"errors", "config", "measurement_config", "limits", "numbers", "documents", "scratch"}
# Which rooms and top-level modules each room may import, besides itself.
SEES = {
    "planning": FREE_MODULES,
    "data": FREE_MODULES | {"planning"},
    "graph": FREE_MODULES | {"planning"},
    "calibration": FREE_MODULES | {"planning"},
    "runtime": FREE_MODULES | {"planning"},
    "reporting": FREE_MODULES,
    # The public API: what the package itself offers, and the modules that stand for one command each.
    "cli": FREE_MODULES | {"", "checking", "files", "inspection", "measurement", "pipeline", "progress"},
}
# Top-level modules that everyone may import must not import any room.
FOUNDATIONS = FREE_MODULES | {"files", "leftovers", "progress"}


class Import(NamedTuple):
    """One import: where it stands, what it names, and whether it happens when the module is loaded."""

    file: str
    line: int
    module: str
    at_load: bool

    @property
    def place(self) -> str:
        return f"{self.file}:{self.line} imports {self.module}"


def list_sources() -> dict[str, list[Path]]:
    """Return the source files by room; the top-level modules by their own names."""
    sources: dict[str, list[Path]] = {}
    for path in sorted((ROOT / PACKAGE).rglob("*.py")):
        relative = path.relative_to(ROOT / PACKAGE)
        room = relative.parts[0] if len(relative.parts) > 1 else relative.stem
        sources.setdefault(room, []).append(path)
    sources["cli"] = sorted((ROOT / "cli").rglob("*.py"))
    return sources


def list_imports(path: Path) -> Iterator[Import]:
    """Yield all imports of a file but those for type checkers only."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for_checkers = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for statement in node.body
        for inner in ast.walk(statement)
    }
    in_functions = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        for inner in ast.walk(node)
    }
    file = path.relative_to(ROOT).as_posix()
    for node in ast.walk(tree):
        if id(node) in for_checkers:
            continue
        at_load = id(node) not in in_functions
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(file, node.lineno, alias.name, at_load)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}:{node.lineno}: relative imports hide who imports whom"
            module = node.module or ""
            if module == PACKAGE:
                for alias in node.names:
                    is_module = alias.name in SOURCES
                    yield Import(file, node.lineno, f"{PACKAGE}.{alias.name}" if is_module else PACKAGE, at_load)
            else:
                yield Import(file, node.lineno, module, at_load)


SOURCES = list_sources()
IMPORTS = {room: [item for path in paths for item in list_imports(path)] for room, paths in SOURCES.items()}
ROOMS = sorted(OWNED)
TOP_MODULES = sorted(set(SOURCES) - set(OWNED))


def split_target(module: str) -> str | None:
    """Return the room or top-level module that is imported, "" for the package, `None` for other packages."""
    parts = module.split(".")
    if parts[0] != PACKAGE:
        return None
    return parts[1] if len(parts) > 1 else ""


def list_outside(room: str) -> dict[str, list[str]]:
    """Return the outside libraries that a room imports, with the places."""
    found: dict[str, list[str]] = {}
    for item in IMPORTS[room]:
        library = item.module.split(".")[0]
        if library not in {PACKAGE, "numpy"} and library not in sys.stdlib_module_names:
            found.setdefault(library, []).append(item.place)
    return found


def test_every_room_is_known() -> None:
    folders = {path.parent.name for path in (ROOT / PACKAGE).glob("*/__init__.py")}
    assert folders | {"cli"} == set(OWNED)
    assert set(SEES) == set(OWNED)
    assert all(IMPORTS[room] for room in ROOMS if room != "planning")


@pytest.mark.parametrize("room", ROOMS)
def test_rooms_import_only_their_own_outside_libraries(room: str) -> None:
    strangers = {library: places for library, places in list_outside(room).items() if library not in OWNED[room]}
    assert strangers == {}


@pytest.mark.parametrize("room", ROOMS)
def test_rooms_import_only_what_lies_below_them(room: str) -> None:
    allowed = SEES[room] | {room}
    targets = [(split_target(item.module), item.place) for item in IMPORTS[room]]
    assert [place for target, place in targets if target is not None and target not in allowed] == []


@pytest.mark.parametrize("module", TOP_MODULES)
def test_top_level_modules_leave_outside_libraries_to_the_rooms(module: str) -> None:
    assert list_outside(module) == {}


@pytest.mark.parametrize("module", sorted(FOUNDATIONS))
def test_foundations_import_nothing_above_them(module: str) -> None:
    targets = [(split_target(item.module), item.place) for item in IMPORTS[module]]
    assert [place for target, place in targets if target is not None and target not in FOUNDATIONS] == []


def test_only_the_entry_point_imports_the_command_line() -> None:
    users = {module for module in TOP_MODULES for item in IMPORTS[module] if split_target(item.module) == "cli"}
    assert users == {"__main__"}


def test_room_init_files_are_empty() -> None:
    inits = [ROOT / PACKAGE / room / "__init__.py" for room in ROOMS if room != "cli"]
    assert [path.name for path in [*inits, ROOT / "cli" / "__init__.py"] if path.read_text(encoding="utf-8")] == []


@pytest.mark.parametrize("room", ["runtime", "reporting"])
def test_slow_libraries_load_only_when_their_step_runs(room: str) -> None:
    heavy = {"onnxruntime", "scipy", "jinja2", "matplotlib"}
    places = [item.place for item in IMPORTS[room] if item.at_load and item.module.split(".")[0] in heavy]
    assert places == []


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = "import sys, onnx_basisprune; print(*sorted({name.split('.')[0] for name in sys.modules}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "onnx_basisprune" in loaded
    heavy = set().union(*OWNED.values()) | {"numpy"}
    assert loaded & heavy == set()


def test_every_room_is_packaged() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    packages = set(re.findall(rf'"{PACKAGE}\.(\w+)",', text))
    assert packages == set(OWNED)


def test_modules_stay_small() -> None:
    lengths = {
        path.relative_to(ROOT).as_posix(): len(path.read_text(encoding="utf-8").splitlines())
        for paths in SOURCES.values()
        for path in paths
    }
    assert {name: length for name, length in lengths.items() if length > 300} == {}
