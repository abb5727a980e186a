"""FINN+'s own RTL, made fit for yosys and Verilator: text patches on copies, each tied to its anchor in finn-plus 1.6.1.

Never committed, never shipped: the copies are made in the build folder from the installed package, notices kept.
"""

from __future__ import annotations

from greenedge.errors import ToolError

# file -> (text in 1.6.1, what takes its place, why)
_REPLACE = {
    "thresholding.sv": (("p.ptr[M-1:SN+1] < 2**stage - SCOPE_REDUCE;",
                         "(p.ptr >> (SN+1)) % (1<<stage) < 2**stage - SCOPE_REDUCE;",
                         "the slice is empty at stage 0, which slang refuses"),),
    "vpc.sv": (("`default_nettype none", "", "it leaks into the files read after this one"),
               ("`default_nettype wire", "", "as above")),
    "fifo.sv": (("`default_nettype none", "", "it leaks into the files read after this one"),),
}


def patched(name: str, text: str) -> str:
    """`text` of FINN+'s file `name`, ready for our tools. ToolError when the file is not the one the patch was made for."""
    for anchor, replacement, why in _REPLACE.get(name, ()):
        if text.count(anchor) != 1:
            raise ToolError(f"FINN+'s {name} is not the file of finn-plus 1.6.1: {anchor!r} is not there once ({why}); "
                            "remove greenedge's FINN environment and run the same command again.")
        text = text.replace(anchor, replacement)
    return text
