"""The graph, the passes and the rules ask of which kind an operation is; everywhere else a trait or a property of the
graph answers. What is left is listed with its reason."""

from __future__ import annotations

import ast

import greenedge
from greenedge.graph import OPS
from greenedge.graph.ops import Linear

MOST = 15
KINDS = {kind.__name__ for kind in OPS.values()} | {Linear.__name__}
REASONS = {
    "backends/c99/memory_plan.py": (1, "a Reshape lies where its input lies"),
    "backends/int8/preflight_estimate.py": (1, "the line behind a sum is the one that kernels fold into the layer"),
    "backends/int8/tflite/options.py": (1, "the layers whose weights TFLite's kernels take in int8 alone"),
    "lower/argmax.py": (1, "an input's integers are the user's, not scores"),
    "lower/builder.py": (1, "only a layer with weights can take the sign of a falling function"),
    "lower/float_ties/explain.py": (2, "how far floats may stray is another question for an index and for a sum"),
    "lower/float_ties/outputs_only.py": (2, "the same, where the model's outputs alone are known"),
    "lower/passes.py": (1, "weights take the sign of a falling step function"),
    "lower/snap.py": (1, "the line behind a sum is the one that a snap moves"),
    "verify/float_references.py": (1, "a level is compared with ==, a sum within the float's error"),
    "verify/reference.py": (1, "a level is compared with ==, a sum within the float's error"),
}


def count_questions(source: str) -> int:
    """isinstance calls that name an operation's kind, or several."""
    found = 0
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and getattr(node.func, "id", None) == "isinstance":
            found += any(isinstance(part, ast.Name) and part.id in KINDS for part in ast.walk(node.args[1]))
    return found


def test_a_question_is_counted():
    assert count_questions("if isinstance(op, (Conv, ConvTranspose)) or isinstance(op, Linear): pass") == 2
    assert count_questions("isinstance(x, nn.Linear); isinstance(x, int)") == 0


def test_where_the_kind_of_an_operation_is_asked_for(repo):
    package = repo / "greenedge"
    assert package.samefile(greenedge.__path__[0])
    found = {}
    for path in sorted(package.rglob("*.py")):
        name, source = path.relative_to(package).as_posix(), path.read_text()
        is_rule = "RULES.lowers(" in source or name == "backends/int8/requirements.py"  # the checks that rules share
        if not name.startswith(("graph/", "legalise/")) and not is_rule:
            found[name] = count_questions(source)
    assert {name: count for name, count in found.items() if count} == {
        name: count for name, (count, _) in REASONS.items()
    }
    assert sum(found.values()) <= MOST
