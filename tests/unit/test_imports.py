"""Imports flow downwards only, and the command line starts without anything heavy."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

# From the ground up; a part imports only parts of the rows above it in this list. A new module takes its place here.
ORDER = (
    ("errors", "quiet", "shipped"),
    ("compare", "files", "toolbox", "container", "target"),
    ("graph", "tools", "manifest"),
    ("lower", "export", "energy", "int8"),
    ("endings", "host", "reference", "model_file", "train", "rtl", "shell", "streams"),
    ("backends.c99", "backends.da4ml", "backends.finn", "backends.hls4ml", "backends.onnxruntime", "backends.tflite"),
    ("backends", "boards"),
    ("choice",),
    ("check", "verify", "report", "runtimes", "inference"),
    ("flow", "measure"),
    ("entry", "doctor", "console"),
    ("deploy", "sweep"),
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
}


def _part(module: str) -> str:
    """The part a module of ours belongs to; back ends count each for itself."""
    names = module.split(".")[1:]
    return ".".join(names[:2]) if names[0] == "backends" and len(names) > 1 else names[0]


def _imported(tree: ast.AST) -> list[str]:
    """Our modules that a source file imports, at its top or inside a function."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "imports are absolute"
            found += [f"greenedge.{a.name}" for a in node.names] if node.module == "greenedge" else [node.module]
    return [name for name in found if name.startswith("greenedge.") and name != "greenedge.__version__"]


@pytest.fixture(scope="module")
def edges(repo: Path) -> list[tuple[str, str, str]]:
    """(file, its part, part it imports) for every import between parts."""
    package = repo / "greenedge"
    result = []
    for path in sorted(package.rglob("*.py")):
        name = path.relative_to(repo).with_suffix("").as_posix().replace("/", ".").removesuffix(".__init__")
        if name == "greenedge" or "templates" in path.parts:  # a template is filled in before it is Python
            continue
        for other in _imported(ast.parse(path.read_text())):
            if _part(other) != _part(name):
                result.append((path.relative_to(repo).as_posix(), _part(name), _part(other)))
    return result


def test_every_part_has_its_place(repo):
    package = repo / "greenedge"
    parts = {p.stem for p in package.glob("*.py")} | {p.parent.name for p in package.glob("*/*.py")}
    parts |= {f"backends.{p.stem if p.is_file() else p.name}" for p in (package / "backends").glob("[a-z]*")}
    unplaced = parts - set(RANK) - {"__init__", "__main__"}
    assert not unplaced, f"give {sorted(unplaced)} a row in ORDER"


def test_imports_flow_downwards(edges):
    wrong = [f"{path}: {part} imports {other}" for path, part, other in edges if RANK[other] >= RANK[part]]
    assert not wrong, "\n".join(wrong)


def test_back_ends_do_not_know_each_other(edges):
    wrong = [path for path, part, other in edges if part.startswith("backends.") and other.startswith("backends.")]
    assert not wrong


def test_the_command_line_starts_without_anything_heavy():
    code = "import sys, greenedge.cli; print(*{name.partition('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not HEAVY & set(done.stdout.split())
