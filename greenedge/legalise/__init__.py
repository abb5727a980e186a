"""Between the integer graph and the back ends: exact passes that they share, capabilities as data, one rule per
operation.

A back end lists the passes it wants; check, plan, simulate and verify all see the graph that comes out of them.
"""

from greenedge.graph import ArgMax, ConvTranspose, Gather, SumPool
from greenedge.legalise.argmax_to_host import drop_argmax, move_argmax_to_host
from greenedge.legalise.binary_add import split_additions
from greenedge.legalise.clamp_at_reach import clamp_at_reach
from greenedge.legalise.early_requantise import requantise_early
from greenedge.legalise.fuse_steps import fuse_lines, fuse_steps
from greenedge.legalise.gather_to_conv import gather_to_conv
from greenedge.legalise.layout_folding import fold_layouts
from greenedge.legalise.moves_to_host import drop_last_moves, move_last_moves_to_host
from greenedge.legalise.narrow_channel_sums import narrow_channel_sums
from greenedge.legalise.narrow_sums import narrow_sums
from greenedge.legalise.one_to_two_dimensions import widen_sequences
from greenedge.legalise.passes import HostPass, Pass, Passes, legalise, legalise_graph
from greenedge.legalise.split_weights import split_weights
from greenedge.legalise.sum_pool_to_depthwise import sum_pool_to_depthwise
from greenedge.legalise.transposed_to_conv import replace_transposed_conv

ARGMAX_TO_HOST = HostPass(
    "ArgMax at the end to the host",
    move_argmax_to_host,
    drop_argmax,
    "gives the scores that it chooses from",
    (ArgMax,),
)
MOVES_TO_HOST = HostPass(
    "Gather and Transpose at the end to the host",
    move_last_moves_to_host,
    drop_last_moves,
    "gives the tensor that it rearranges",
)
FUSE_STEPS = Pass("fused quantisers", fuse_steps)
FUSE_LINES = Pass("fused lines", fuse_lines)
FOLD_LAYOUTS = Pass("layout folding", fold_layouts)
SPLIT_ADDITIONS = Pass("additions of two", split_additions)
NARROW_SUMS = Pass("short multipliers", lambda graph: narrow_channel_sums(narrow_sums(graph)))
SPLIT_WEIGHTS = Pass("weights of 8 bits", split_weights)
CLAMP_AT_REACH = Pass("clamp at reach", clamp_at_reach)
REQUANTISE_EARLY = Pass("early requantisation", requantise_early)
WIDEN_SEQUENCES = Pass("1-d to 2-d", widen_sequences)
GATHER_TO_CONV = Pass("selections to convolutions", gather_to_conv, (Gather,))
SUM_POOL_TO_DEPTHWISE = Pass("sum pool to depthwise", sum_pool_to_depthwise, (SumPool,))
TRANSPOSED_TO_CONV = Pass("transposed convolution to convolution", replace_transposed_conv, (ConvTranspose,))
HOST_PASSES = (ARGMAX_TO_HOST, MOVES_TO_HOST)
ALL_PASSES = (
    *HOST_PASSES,
    FUSE_LINES,
    FUSE_STEPS,
    FOLD_LAYOUTS,
    SPLIT_ADDITIONS,
    NARROW_SUMS,
    SPLIT_WEIGHTS,
    CLAMP_AT_REACH,
    REQUANTISE_EARLY,
    WIDEN_SEQUENCES,
    SUM_POOL_TO_DEPTHWISE,
    TRANSPOSED_TO_CONV,
    GATHER_TO_CONV,
)

__all__ = [
    "ALL_PASSES",
    "ARGMAX_TO_HOST",
    "CLAMP_AT_REACH",
    "FOLD_LAYOUTS",
    "FUSE_LINES",
    "FUSE_STEPS",
    "GATHER_TO_CONV",
    "HOST_PASSES",
    "NARROW_SUMS",
    "REQUANTISE_EARLY",
    "MOVES_TO_HOST",
    "SPLIT_ADDITIONS",
    "SPLIT_WEIGHTS",
    "SUM_POOL_TO_DEPTHWISE",
    "TRANSPOSED_TO_CONV",
    "WIDEN_SEQUENCES",
    "HostPass",
    "Pass",
    "Passes",
    "drop_argmax",
    "legalise",
    "legalise_graph",
    "move_argmax_to_host",
]
