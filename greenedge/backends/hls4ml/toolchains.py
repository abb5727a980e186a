"""The HLS compilers that hls4ml writes for: what each is called, how its C++ is compiled here, what the vendor runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from greenedge.errors import Reason, ReasonKind, TargetError
from greenedge.graph import Graph
from greenedge.legalise.capabilities import QUANTISE_OUTPUT
from greenedge.target import Target

TOP = "net"  # the C++ function and the RTL module
PROJECT = "project"  # the folder below the build


@dataclass(frozen=True)
class Vendor:
    """A program that compiles a project to hardware: what is run below the project, up to the HLS compiler's estimate,
    and what for counts after logic synthesis (or after routing, with `bitstream`).
    """

    program: str
    hls: tuple[tuple[str, ...], ...]
    logic: tuple[tuple[str, ...], ...]
    bitstream: tuple[tuple[str, ...], ...] = ()


@dataclass(frozen=True)
class Toolchain:
    """`includes` are below the project. `families`: devices it compiles for, the first toolchain of a family is its
    default.

    `vendor` are the programs of which one runs the synthesis; `reports` is what it must leave below the project, by
    kind of synthesis; `has_depthwise`: hls4ml has such a layer for it; `float_bits`: significant bits of the numbers at
    its interface; `uncompiled`: why its C++ is not compiled here; `top`: the network's own source.
    """

    name: str
    backend: str
    families: tuple[str, ...]
    includes: tuple[str, ...]
    vendor: tuple[Vendor, ...]
    reports: Mapping[str, str]
    has_depthwise: bool = True
    weights_in_headers: bool = True
    sources: tuple[str, ...] = ()
    defines: tuple[str, ...] = ()
    float_bits: int = 53
    uncompiled: str | None = None
    top: str = f"firmware/{TOP}.cpp"


def _arguments(logic: int, export: int = 0) -> str:
    return f"reset=0 csim=0 synth=1 cosim=0 validation=0 export={export} vsynth={logic} fifo_opt=0"


def _vivado(logic: int, export: int = 0) -> tuple[str, ...]:
    return ("vivado_hls", "-f", "build_prj.tcl", _arguments(logic, export))


def _catapult(logic: int) -> tuple[tuple[str, ...], ...]:
    words = f'set ::argv "{_arguments(logic)}"'
    return (("catapult", "-product", "ultra", "-shell", "-f", "build_prj.tcl", "-eval", words),)


def _oneapi(target: str) -> tuple[tuple[str, ...], ...]:
    return (("cmake", "-S", ".", "-B", "build"), ("cmake", "--build", "build", "--target", target))


_AP = ("firmware/ap_types",)
_VITIS = tuple(
    Vendor(argv[0], (argv,), (argv,))
    for argv in (  # build_opt.tcl sets their steps
        ("vitis-run", "--mode", "hls", "--tcl", "build_prj.tcl"),
        ("vitis_hls", "-f", "build_prj.tcl"),
    )
)
_XILINX = ("zynq", "zynq-us", "virtex-us", "kintex-us", "artix-7")
_SOLUTION = f"{TOP}_prj/solution1/syn/report"
_CATAPULT = f"{TOP}_prj/{TOP}.v1"
ROUTED = f"{TOP}_vivado_accelerator/project_1.runs/impl_1"
TOOLCHAINS: Mapping[str, Toolchain] = {
    chain.name: chain
    for chain in (
        Toolchain(
            "vitis",
            "Vitis",
            _XILINX,
            _AP,
            _VITIS,
            {"hls": f"{_SOLUTION}/{TOP}_csynth.xml", "logic": "vivado_synth.rpt"},
        ),
        Toolchain(
            "vivado",
            "Vivado",
            _XILINX,
            _AP,
            (Vendor("vivado_hls", (_vivado(0),), (_vivado(1),)),),
            {"hls": f"{_SOLUTION}/{TOP}_csynth.xml", "logic": "vivado_synth.rpt"},
        ),
        Toolchain(
            "vivado-accelerator",
            "VivadoAccelerator",
            _XILINX,
            _AP,
            (
                Vendor(
                    "vivado_hls",
                    (_vivado(0),),
                    (_vivado(1),),
                    (_vivado(0, 1), ("vivado", "-mode", "batch", "-source", "design.tcl")),
                ),
            ),
            {
                "hls": f"{_SOLUTION}/{TOP}_axi_csynth.xml",
                "logic": "vivado_synth.rpt",
                "bitstream": f"{ROUTED}/design_1_wrapper.bit",
            },
            sources=(f"firmware/{TOP}_axi.cpp",),
            float_bits=24,
        ),
        Toolchain(
            "quartus",
            "Quartus",
            ("arria-10",),
            ("firmware/ac_types", "firmware/ap_types"),
            (
                Vendor(
                    "i++", (("make", f"{TOP}-fpga"),), (("make", f"{TOP}-fpga", "QUARTUS_COMPILE=--quartus-compile"),)
                ),
            ),
            {
                "hls": f"{TOP}-fpga.prj/reports/lib/report_data.js",
                "logic": f"{TOP}-fpga.prj/reports/lib/quartus_data.js",
            },
            has_depthwise=False,
            defines=("BRIDGE_SIZES",),
        ),
        Toolchain(
            "oneapi",
            "oneAPI",
            ("arria-10",),
            (),
            (Vendor("icpx", _oneapi("report"), _oneapi("fpga")),),
            {
                "hls": f"build/{TOP}.report.prj/reports/resources/json/summary.ndjson",
                "logic": f"build/{TOP}.fpga.prj/reports/resources/json/quartus.ndjson",
            },
            has_depthwise=False,
            uncompiled="its C++ is SYCL, which Intel's icpx alone compiles",
            top=f"src/firmware/{TOP}.cpp",
        ),
        Toolchain(
            "catapult",
            "Catapult",
            _XILINX,
            (
                "firmware/ac_types/include",
                "firmware/ac_math/include",
                "firmware/ac_simutils/include",
                "firmware/nnet_utils",
            ),
            (Vendor("catapult", _catapult(0), _catapult(1)),),
            {"hls": f"{_CATAPULT}/rtl.rpt", "logic": f"{_CATAPULT}/vivado_concat_v/utilization_synth.rpt"},
            # its depthwise layers went wrong where a stride left pixels over
            has_depthwise=False,
            weights_in_headers=False,
        ),
        Toolchain(
            "libero",
            "Libero",
            ("polarfire",),
            (),
            (),
            {},
            uncompiled="hls4ml 1.3 asks for SmartHLS (shls) before it writes anything",
        ),
    )
}
# boards that VivadoAccelerator has a block design for: our name -> its name
ACCELERATOR_BOARDS = {"pynq-z2": "pynq-z2", "zcu102": "zcu102"}


def choose_toolchain(target: Target, wanted: object) -> Toolchain:
    """The toolchain asked for, else the first for the target's family. Raises TargetError for a name that is none."""
    if wanted is not None:
        if str(wanted) not in TOOLCHAINS:
            raise TargetError(f"there is no HLS toolchain {wanted!r}; toolchains are: {', '.join(TOOLCHAINS)}.")
        return TOOLCHAINS[str(wanted)]
    fits = [chain for chain in TOOLCHAINS.values() if target.device.family in chain.families]
    if not fits:
        known = sorted({family for chain in TOOLCHAINS.values() for family in chain.families})
        raise TargetError(
            f"{target.name}: no HLS toolchain is known for family {target.device.family!r}; hls4ml "
            f"serves "
            f"{', '.join(known)}."
        )
    return fits[0]


def check_toolchain(graph: Graph, target: Target, chain: Toolchain, synthesis: object) -> list[Reason]:
    """Why the toolchain does not fit: the kind of synthesis, the device, the width of numbers at its interface."""
    reasons: list[Reason] = []

    def refuse(kind: ReasonKind, value: str, rule: str, cure: str, node: str = graph.name) -> None:
        reasons.append(Reason(node, kind, value, rule, cure))

    if chain.name == "libero":
        refuse(ReasonKind.NO_TOOLCHAIN, f"toolchain {chain.name}", chain.uncompiled or "", "choose another toolchain")
    if chain.reports and synthesis not in ("auto", "no", *chain.reports):
        refuse(
            ReasonKind.OPTION,
            f"synthesis {synthesis}",
            f"{chain.name} goes to {' or '.join(chain.reports)}",
            "choose toolchain vivado-accelerator",
        )
    if target.device.family not in chain.families:
        refuse(
            ReasonKind.UNSUPPORTED_TARGET,
            f"a device of family {target.device.family!r}",
            f"{chain.name} compiles for {', '.join(chain.families)}",
            "choose another target or toolchain",
        )
    if chain.name == "vivado-accelerator" and target.name not in ACCELERATOR_BOARDS:
        refuse(
            ReasonKind.UNSUPPORTED_TARGET,
            f"{target.name}",
            f"VivadoAccelerator has block designs for {', '.join(ACCELERATOR_BOARDS)}",
            "choose toolchain vitis",
        )
    for edge in (graph.edges[name] for name in (*graph.inputs, *graph.outputs)):
        if edge.bits > chain.float_bits:
            refuse(
                ReasonKind.TOO_WIDE,
                f"{edge.bits} bits at the interface",
                f"{chain.name} hands over floats of {chain.float_bits} bits",
                f"choose toolchain vitis, or {QUANTISE_OUTPUT if edge.name in graph.outputs else 'quantise the input'}",
                edge.name,
            )
    return reasons
