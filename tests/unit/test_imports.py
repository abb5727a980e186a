"""Imports flow downwards only, nothing imports in a circle, and the command line starts without anything heavy."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

# From the ground up; a part imports only parts of the rows above it in this list. A new room takes its place here. A
# room's module may have a row of its own where it is lower, or higher, than the rest of the room.
ORDER = (
    ("errors", "_warnings", "progress"),
    ("files", "run.folder"),
    ("target", "tools", "run.manifest"),
    ("graph", "decoder", "hdl", "energy"),
    ("train", "backends.int8.arithmetic"),
    ("frontends",),
    ("lower",),
    ("legalise",),
    ("backends.interface", "boards"),
    ("backends.int8",),
    (
        "backends.c99",
        "backends.da4ml",
        "backends.decoder",
        "backends.finn",
        "backends.hls4ml",
        "backends.int8.onnxruntime",
        "backends.int8.tflite",
    ),
    ("backends",),
    ("backends.select",),
    ("backends.preflight", "verify", "report", "runtimes"),
    ("run",),
    ("sweep",),
    ("api",),
    ("cli",),
)
RANK = {part: rank for rank, row in enumerate(ORDER) for part in row}
HEAVY = {
    "numba",
    "hls4ml",
    "da4ml",
    "torch",
    "onnx",
    "numpy",
    "scipy",
    "sklearn",
    "matplotlib",
    "qonnx",
    "brevitas",
    "ai_edge_litert",
    "jinja2",
    "optuna",
    "dask",
    "distributed",
}


def find_part(module: str) -> str:
    """The part of ORDER that a module of ours belongs to: the longest name that it begins with."""
    name = module.removeprefix("greenedge.")
    return max((part for part in RANK if name == part or name.startswith(f"{part}.")), key=len, default=name)


def list_modules(root: Path, package: str) -> dict[str, Path]:
    """{module: file}; templates become Python only when they are filled in."""
    files = [path for path in sorted((root / package).rglob("*.py")) if "templates" not in path.parts]
    names = [path.relative_to(root).with_suffix("").as_posix().replace("/", ".") for path in files]
    return {name.removesuffix(".__init__"): path for name, path in zip(names, files, strict=True)}


def list_imports(tree: ast.AST, modules: dict[str, Path]) -> Iterator[str]:
    """Our modules that a source file imports, at its top or inside a function; not those for the type checker alone."""
    types_only = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if node in types_only:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in modules)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "imports are absolute"
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                if name in modules or node.module in modules:
                    yield name if name in modules else str(node.module)


def import_graph(root: Path, package: str) -> dict[str, set[str]]:
    modules = list_modules(root, package)
    return {name: set(list_imports(ast.parse(path.read_text()), modules)) - {name} for name, path in modules.items()}


def find_circles(edges: dict[str, set[str]]) -> list[list[str]]:
    """Groups of modules that reach each other, found by taking away again and again what imports nothing that is
    left."""
    left = {name: set(targets) for name, targets in edges.items()}
    while free := {name for name, targets in left.items() if not targets & set(left)}:
        left = {name: targets for name, targets in left.items() if name not in free}
    while free := set(left) - {target for targets in left.values() for target in targets}:
        left = {name: targets for name, targets in left.items() if name not in free}
    return [sorted(left)] if left else []


@pytest.fixture(scope="module")
def edges(repo: Path) -> dict[str, set[str]]:
    graph = import_graph(repo, "greenedge")
    return {name: targets - {"greenedge"} for name, targets in graph.items() if name != "greenedge"}


def test_every_part_has_its_place(edges):
    unplaced = {find_part(module) for module in edges} - set(RANK) - {"__main__"}
    assert not unplaced, f"give {sorted(unplaced)} a row in ORDER"


def test_imports_flow_downwards(edges):
    wrong = [
        f"{module} imports {target}"
        for module, targets in edges.items()
        for target in sorted(targets)
        if find_part(module) != find_part(target) and RANK[find_part(target)] >= RANK[find_part(module)]
    ]
    assert not wrong, "\n".join(wrong)


def test_nothing_imports_in_a_circle(edges):
    assert not find_circles(edges)


def test_benchmarks_import_in_no_circle(repo):
    modules = list_modules(repo, "benchmarks")
    bare = {
        name.rpartition(".")[2]: path for name, path in modules.items()
    }  # scripts that import each other by their own name
    edges = {name: set(list_imports(ast.parse(path.read_text()), bare)) - {name} for name, path in bare.items()}
    assert any(edges.values()) and not find_circles(edges)


def test_the_package_does_not_import_tests_or_benchmarks(repo):
    for path in list_modules(repo, "greenedge").values():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                assert (node.module or "").partition(".")[0] not in ("tests", "benchmarks"), path


def test_a_circle_is_found():
    assert find_circles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"a"}}) == [["b", "c"]]
    assert find_circles({"a": {"b"}, "b": {"c"}, "c": set()}) == []


def test_back_ends_do_not_know_each_other(edges):
    own = {part for row in ORDER for part in row if part.startswith("backends.") and part not in SHARED}
    wrong = [
        f"{module} imports {target}"
        for module, targets in edges.items()
        for target in targets
        if find_part(module) in own and find_part(target) in own - {find_part(module)}
    ]
    assert not wrong


SHARED = {"backends.interface", "backends.int8", "backends.int8.arithmetic", "backends.select", "backends.preflight"}


def test_the_command_line_starts_without_anything_heavy():
    code = "import sys, greenedge.cli; print(*{name.partition('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not HEAVY & set(done.stdout.split())
