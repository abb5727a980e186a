"""The HLS compilers that hls4ml writes for: what each is called, how its C++ is compiled here, what the vendor runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from greenedge.errors import TargetError
from greenedge.target import Target

TOP = "net"  # the C++ function and the RTL module
PROJECT = "project"  # the folder below the build


@dataclass(frozen=True)
class Toolchain:
    """`includes` are below the project. `families`: devices it compiles for, the first toolchain of a family is its
    default.

    `vendor` are the programs of which one runs the synthesis, with their arguments; `depthwise`: hls4ml has such a
    layer for it; `float_bits`: significant bits of the numbers at its interface; `uncompiled`: why its C++ is not
    compiled here.
    """

    name: str
    backend: str
    families: tuple[str, ...]
    includes: tuple[str, ...]
    vendor: tuple[tuple[str, ...], ...]
    io: tuple[str, ...] = ("io_parallel", "io_stream")
    depthwise: bool = True
    weights_in_headers: bool = True
    sources: tuple[str, ...] = ()
    defines: tuple[str, ...] = ()
    float_bits: int = 53
    uncompiled: str | None = None


_ARGUMENTS = "reset=0 csim=0 synth=1 cosim=0 validation=0 export=0 vsynth={logic} fifo_opt=0"
_AP = ("firmware/ap_types",)
_VITIS = (("vitis-run", "--mode", "hls", "--tcl", "build_prj.tcl"), ("vitis_hls", "-f", "build_prj.tcl"))
_XILINX = ("zynq", "zynq-us", "virtex-us", "kintex-us", "artix-7")
TOOLCHAINS: Mapping[str, Toolchain] = {chain.name: chain for chain in (
    Toolchain("vitis", "Vitis", _XILINX, _AP, _VITIS),
    Toolchain("vivado", "Vivado", _XILINX, _AP, (("vivado_hls", "-f", "build_prj.tcl", _ARGUMENTS),)),
    Toolchain("vivado-accelerator", "VivadoAccelerator", _XILINX, _AP,
              (("vivado_hls", "-f", "build_prj.tcl", _ARGUMENTS),),
              sources=(f"firmware/{TOP}_axi.cpp",), float_bits=24),
    Toolchain("quartus", "Quartus", ("arria-10",), ("firmware/ac_types", "firmware/ap_types"),
              (("make", f"{TOP}-fpga"),),
              depthwise=False, defines=("BRIDGE_SIZES",)),
    Toolchain("oneapi", "oneAPI", ("arria-10",), (), (("cmake", "--build", "."),), depthwise=False,
              uncompiled="its C++ is SYCL, which Intel's icpx alone compiles"),
    Toolchain("catapult", "Catapult", _XILINX + ("arria-10",), ("firmware/ac_types/include", "firmware/ac_math/include",
              "firmware/ac_simutils/include", "firmware/nnet_utils"),
              (("catapult", "-product", "ultra", "-shell", "-f", "build_prj.tcl", "-eval",
                f"set ::argv \"{_ARGUMENTS}\""),),
              depthwise=False, weights_in_headers=False),  # its depthwise layers went wrong where a stride left pixels over
    Toolchain("libero", "Libero", ("polarfire",), (), (("shls", "hw"),),
              uncompiled="hls4ml 1.3 asks for SmartHLS (shls) before it writes anything"))}
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
        raise TargetError(f"{target.name}: no HLS toolchain is known for family {target.device.family!r}; hls4ml "
                          f"serves "
                          f"{', '.join(known)}.")
    return fits[0]
