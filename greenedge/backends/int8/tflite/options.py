"""Why a file cannot be what its options ask for."""

from __future__ import annotations

from collections.abc import Mapping

from greenedge.backends.int8.tflite.epilogue import OUTPUTS
from greenedge.errors import Reason, ReasonKind
from greenedge.graph import Conv, ConvTranspose, Graph

KERNELS = ("xnnpack", "all")
STORAGES = ("int8", "int4-dense")
_REFUSED = {
    "int4": "LiteRT 2.3 keeps int4 convolutions from XNNPACK, three times slower than int8",
    "int2": "LiteRT 2.3 has no int2 convolutions",
}


def check_options(graph: Graph, options: Mapping[str, object], compiled: bool) -> list[Reason]:
    """Why the file cannot be what build.storage, build.kernels and build.outputs say.

    `compiled`: whether an accelerator's compiler reads it.
    """
    found = [
        Reason(
            graph.name,
            ReasonKind.OPTION,
            f"build.{option} is {options[option]!r}",
            f"it is one of {', '.join(known)}",
            f"leave it out for {known[0]}",
        )
        for option, known in (("kernels", KERNELS), ("outputs", OUTPUTS))
        if options.get(option, known[0]) not in known
    ]
    return found + _check_storage(graph, options, compiled)


def _check_storage(graph: Graph, options: Mapping[str, object], compiled: bool) -> list[Reason]:
    wanted = options.get("storage", STORAGES[0])
    if wanted == STORAGES[1] and compiled:
        return [
            Reason(
                graph.name,
                ReasonKind.OPTION,
                f"build.storage is {wanted!r}",
                "compilers of accelerators take int8 (Vela 5.2 dies on int4) and pack it themselves",
                "leave it out for int8",
            )
        ]
    if wanted in STORAGES:
        return []
    if wanted not in _REFUSED:
        return [
            Reason(
                graph.name,
                ReasonKind.OPTION,
                f"build.storage is {wanted!r}",
                f"it is one of {', '.join(STORAGES)}",
                "leave it out for int8",
            )
        ]
    return [
        Reason(
            op.name,
            ReasonKind.OPTION,
            f"{wanted} weights",
            _REFUSED[wanted],
            f"build.storage={STORAGES[1]}, or int8 (which is the default)",
        )
        for op in graph.ops
        if isinstance(op, (Conv, ConvTranspose))
    ] or [
        Reason(
            graph.name,
            ReasonKind.OPTION,
            f"build.storage is {wanted!r}",
            "dense layers alone may be narrower than int8",
            f"build.storage={STORAGES[1]}",
        )
    ]
