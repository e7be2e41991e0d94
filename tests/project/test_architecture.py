"""The layout's rules: who may import whom, what a bare import loads, what the wheel holds."""

import ast
import importlib
import subprocess
import symtable
import sys
import tomllib
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
COMPONENTS = ("miner", "validator", "router", "distill")
PURE = (
    "moesubnet/mixture/law.py",
    "moesubnet/mixture/mixing.py",
    "moesubnet/mixture/gate.py",
    "moesubnet/mixture/sheet.py",
    "moesubnet/wire/frames.py",
    "moesubnet/mixture/standing.py",
    "moesubnet/mixture/choosing.py",
    "moesubnet/mixture/bending.py",
    "moesubnet/mixture/drafting.py",
    "moesubnet/mixture/draft_length.py",
    "moesubnet/wire/merkle.py",
    "validator/scoring.py",
    "validator/seniors.py",
    "validator/value.py",
    "distill/losses.py",
)
SCRIPTS = sorted((*(ROOT / "benchmarks").glob("*.py"), *(ROOT / "examples").rglob("*.py")))


def imported_modules(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def product_files() -> list[Path]:
    folders = ("moesubnet", *COMPONENTS)
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


@pytest.mark.parametrize("component", COMPONENTS)
def test_a_component_never_imports_another(component: str) -> None:
    others = tuple(f"moesubnet.{name}" for name in COMPONENTS if name != component)
    for path in (ROOT / component).rglob("*.py"):
        wrong = {name for name in imported_modules(path) if name.startswith(others)}
        assert not wrong, f"{path.relative_to(ROOT)} imports {wrong}"


def test_nobody_imports_the_top_level_folders_by_their_bare_names() -> None:
    for path in product_files():
        tops = {name.partition(".")[0] for name in imported_modules(path)}
        assert not tops & set(COMPONENTS), path


def import_graph() -> dict[str, set[str]]:
    """Module → the modules and packages of ours that it imports. A package's __init__ may name
    what it offers; only modules with code count."""

    def name_of(path: Path) -> str:
        inside = path.relative_to(ROOT).with_suffix("").parts
        parts = inside if inside[0] == "moesubnet" else ("moesubnet", *inside)
        return ".".join(parts).removesuffix(".__init__")

    ours = {name_of(path): path for path in product_files()}
    return {
        name: imported_modules(path) & ours.keys()
        for name, path in ours.items()
        if path.name != "__init__.py"
    }


def test_no_modules_import_each_other_in_a_circle() -> None:
    TopologicalSorter(import_graph()).prepare()


def test_no_rooms_import_each_other_in_a_circle() -> None:
    """A room is a folder. On the package's floor each module is one: nouns below, doors above."""
    modules = import_graph()
    folders = {name.rpartition(".")[0] for name in modules} - {"moesubnet"}

    def room(name: str) -> str:
        folder = name.rpartition(".")[0]
        return folder if folder in folders and name not in folders else name

    rooms: dict[str, set[str]] = {}
    for name, found in modules.items():
        rooms.setdefault(room(name), set()).update(map(room, found))
    TopologicalSorter({name: found - {name} for name, found in rooms.items()}).prepare()


def test_no_code_of_ours_runs_between_fork_and_exec() -> None:
    for path in product_files():
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            assert not (isinstance(node, ast.keyword) and node.arg == "preexec_fn"), path


def test_the_shared_package_does_not_import_components_except_to_assemble_the_cli() -> None:
    components = tuple(f"moesubnet.{name}" for name in COMPONENTS)
    for path in (ROOT / "moesubnet").rglob("*.py"):
        if path == ROOT / "moesubnet" / "cli.py":
            continue
        wrong = {name for name in imported_modules(path) if name.startswith(components)}
        assert not wrong, f"{path.relative_to(ROOT)} imports {wrong}"


def test_the_wire_knows_no_spec_no_mixture_and_no_model() -> None:
    above = ("spec", "mixture", "engine", "training", "owner", "chain")
    for path in (ROOT / "moesubnet" / "wire").glob("*.py"):
        wrong = {
            name
            for name in imported_modules(path)
            if name.startswith(tuple(f"moesubnet.{room}" for room in above))
        }
        assert not wrong, f"{path.name} imports {wrong}"


@pytest.mark.parametrize("name", PURE)
def test_pure_modules_do_no_input_or_output(name: str) -> None:
    tops = {module.partition(".")[0] for module in imported_modules(ROOT / name)}
    assert not tops & {"asyncio", "aiohttp", "time", "random", "os", "socket", "sqlite3"}


@pytest.mark.parametrize("module", ["moesubnet", "moesubnet.cli", "moesubnet.chain"])
def test_importing_the_package_loads_neither_torch_nor_a_web_server(module: str) -> None:
    code = (
        f"import sys; import {module}\n"
        "heavy = {'torch', 'transformers', 'aiohttp', 'wasmtime'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd="/")


def test_building_the_command_line_loads_nothing_heavy() -> None:
    code = (
        "import sys; from moesubnet.cli import build_app; build_app()\n"
        "heavy = {'torch', 'transformers', 'aiohttp', 'wasmtime', 'substrateinterface'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd="/")


def test_the_wheel_lists_every_package() -> None:
    config = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    found = {
        ".".join(path.parent.relative_to(ROOT).parts)
        for path in (ROOT / "moesubnet").rglob("__init__.py")
    }
    found |= {f"moesubnet.{name}" for name in COMPONENTS}
    assert set(config["packages"]) == found
    for component in COMPONENTS:
        assert not list((ROOT / component).glob("*/__init__.py")), "components stay flat"


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_what_benchmarks_and_examples_import_exists(path: Path):
    """Nothing else runs them, and no type checker sees them."""
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.ImportFrom):
            continue
        if str(node.module).startswith("moesubnet"):
            module = importlib.import_module(str(node.module))
            for name in node.names:
                if not hasattr(module, name.name):
                    importlib.import_module(f"{node.module}.{name.name}")
        elif (beside := path.parent / f"{node.module}.py").is_file():
            assert {name.name for name in node.names} <= symtable.symtable(
                beside.read_text(), beside.name, "exec"
            ).get_identifiers()
