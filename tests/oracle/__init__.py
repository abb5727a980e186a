"""A second opinion: quantised networks in exact rational numbers, written from the definitions of ONNX and QONNX.

It shares no code with greenedge.lower or greenedge.graph. A tensor is an array of Python integers over one common
denominator; what is irrational (a square root, an exponential) is a rational within 2**-240 of it.

    evaluate(model, {"x": x}, fixed={})          # {tensor: Exact} of every node that it can follow
"""

from tests.oracle.evaluate import evaluate
from tests.oracle.exact import Exact

__all__ = ["Exact", "evaluate"]
