"""FINN+ without Vivado, in a process and an environment of its own: job.json in, finn.json out.

    python -I worker.py job.json

Imports nothing from greenedge (it runs in the environment of requirements.txt) and nothing here is imported by it. The
job is a network in FINN's own terms (MVAU, Thresholding, ConvolutionInputGenerator …), folded, so neither FINN's
streamlining nor its folding runs: FINN+ says how many cycles it expects of each layer. What it cannot build it says for
that layer alone. All paths are relative to the working directory; nothing is written outside it.

Tied to finn-plus 1.6.1: it patches what there stands in the way of running without Vivado.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import json
import logging
import os
import shutil
import sys
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

FINN_VERSION = "1.6.1"
# FINN+ imports these while it loads; on our road none of their code runs, so none is installed (1.5 GB less).
ABSENT = (
    "torch",
    "onnxruntime",
    "onnxscript",
    "onnx_ir",
    "onnx_passes",
    "onnxoptimizer",
    "scipy",
    "pandas",
    "sklearn",
    "mip",
    "psutil",
    "matplotlib",
    "brevitas",
    "toml",
)


class AbsentType(type):
    """The class of every name taken from an absent package: it has any attribute, and refuses to be used."""

    def __getattr__(cls, name: str) -> AbsentType:
        if name.startswith("__"):
            raise AttributeError(name)
        return AbsentType(f"{cls.__name__}.{name}", (), {})

    def __call__(cls, *args: Any, **kwargs: Any) -> NoReturn:
        raise RuntimeError(f"FINN+ wants to run {cls.__name__}, which greenedge's FINN environment does not have")


class AbsentModule(types.ModuleType):
    """Stands for a package that is imported but not used."""

    __all__: list[str] = []

    def __getattr__(self, name: str) -> AbsentType:
        if name.startswith("__"):
            raise AttributeError(name)
        return AbsentType(f"{self.__name__}.{name}", (), {})


class AbsentFinder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Answers imports of the absent packages."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name.split(".")[0] in ABSENT:
            return importlib.machinery.ModuleSpec(name, self, is_package=True)
        return None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        return AbsentModule(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        """There is nothing to execute."""


def say(line: str) -> None:
    """A line for the log and for whoever shows progress."""
    print(line, flush=True)


def boot(folder: Path) -> None:
    """Lets FINN+ be imported without Vivado and keeps all it writes inside `folder`. Before any other finn import."""
    sys.meta_path.insert(0, AbsentFinder())
    folder.mkdir(parents=True, exist_ok=True)
    os.environ.update(
        FINN_BUILD_DIR=str(folder),
        FINN_SETTINGS=str(folder / "settings.yaml"),
        FINN_DEPS=str(folder / "no_deps"),
        NUM_DEFAULT_WORKERS="1",
    )
    import finn.util.settings as settings
    from finn.interface.settings import FINNSettings

    settings._SETTINGS = FINNSettings.init(flow_config=folder / "none.yaml", finn_build_dir=str(folder))
    os.environ["FINN_RTLLIB"] = settings._SETTINGS.finn_rtllib
    import finn.xsi

    for name in finn.xsi._LAZY_NAMES:  # else the first attribute looked up starts a search for Vivado
        finn.xsi.__dict__.setdefault(name, None)
    logging.disable(logging.WARNING)


def check_version() -> None:
    """What is patched above is tied to one version."""
    from importlib import metadata

    version = metadata.version("finn-plus")
    if version != FINN_VERSION:
        raise RuntimeError(f"finn-plus {version} is installed, {FINN_VERSION} is what this worker is written for")


def build_model(job: dict[str, Any]) -> Any:
    """The network as a qonnx ModelWrapper of FINN's hardware operations, each in its RTL variant where there is one."""
    import numpy as np
    from onnx import TensorProto, helper
    from qonnx.core.datatype import DataType
    from qonnx.core.modelwrapper import ModelWrapper
    from qonnx.util.basic import qonnx_make_model

    nodes: list[Any] = []  # of onnx, numpy and qonnx, which this environment has and greenedge's type check has not
    infos: dict[str, Any] = {}
    initials: dict[str, Any] = {}
    kinds: dict[str, str] = {}
    for entry in job["nodes"]:
        for tensor in (*entry["inputs"], *entry["outputs"]):
            infos.setdefault(
                tensor["name"], helper.make_tensor_value_info(tensor["name"], TensorProto.FLOAT, tensor["shape"])
            )
            kinds[tensor["name"]] = tensor["type"]
        names = [tensor["name"] for tensor in entry["inputs"]]
        if "data" in entry:
            data = f"{entry['name']}_data"
            names.append(data)
            initials[data] = np.load(entry["data"], allow_pickle=False).astype(np.float32)
            kinds[data] = entry["attributes"]["weightDataType"]
        nodes.append(
            helper.make_node(
                entry["op"] + "_" + variant_of(entry["op"]),
                names,
                [t["name"] for t in entry["outputs"]],
                domain=f"finn.custom_op.fpgadataflow.{variant_of(entry['op'])}",
                backend="fpgadataflow",
                name=entry["name"],
                **entry["attributes"],
            )
        )
    written = {name for node in nodes for name in node.output}
    read = {name for node in nodes for name in node.input}
    graph = helper.make_graph(
        nodes,
        "network",
        [info for name, info in infos.items() if name not in written],
        [info for name, info in infos.items() if name not in read],
    )
    model = ModelWrapper(qonnx_make_model(graph))
    for name, value in initials.items():
        model.set_initializer(name, value)
    for name, kind in kinds.items():
        model.set_tensor_datatype(name, DataType[kind])
    return model


def variant_of(op: str) -> str:
    """ "rtl" or "hls": FINN's RTL where it has it. Raises RuntimeError for an operation that this FINN+ has not."""
    from finn.custom_op.fpgadataflow.hls import custom_op as hls
    from finn.custom_op.fpgadataflow.rtl import custom_op as rtl

    for name, found in (("rtl", rtl), ("hls", hls)):
        if f"{op}_{name}" in found and not (name == "rtl" and op.startswith("Elementwise")):  # those are for floats
            return name
    raise RuntimeError(f"finn-plus {FINN_VERSION} has no operation {op}")


def describe(node: Any) -> dict[str, Any]:
    """What FINN+ expects of one layer, or why it cannot say."""
    from qonnx.custom_op.registry import getCustomOp

    op, variant = node.op_type.rsplit("_", 1)
    try:
        return {"name": node.name, "op": op, "variant": variant, "cycles": int(getCustomOp(node).get_exp_cycles())}
    except Exception as error:  # FINN+ raises anything, assertions too, for what its layers do not support
        return {"name": node.name, "op": op, "variant": variant, "refused": f"{type(error).__name__}: {error}"[:300]}


def main(path: str) -> None:
    job = json.loads(Path(path).read_text())
    scratch = Path("finn-scratch").absolute()
    say("progress: importing FINN+")
    boot(scratch)
    check_version()
    model = build_model(job)
    say(f"progress: estimating {len(model.graph.node)} layers")
    layers = [describe(node) for node in model.graph.node]
    slowest = max((layer["cycles"] for layer in layers if "cycles" in layer), default=None)
    result = {"finn_plus": FINN_VERSION, "layers": layers, "slowest_cycles": slowest}
    Path("finn.json").write_text(json.dumps(result, indent=1) + "\n")
    shutil.rmtree(scratch, ignore_errors=True)
    say(f"progress: FINN+ expects {slowest} cycles of the slowest layer")


def probe() -> None:
    """Imports everything the road needs: a damaged environment fails here."""
    import tempfile

    with tempfile.TemporaryDirectory(prefix="greenedge-finn-") as folder:
        boot(Path(folder))
        check_version()
        variant_of("MVAU")
        check_files()
    say("ok")


def check_files() -> None:
    """Every file of finn-plus is as its package recorded it: the RTL among them is data that no import would miss."""
    import base64
    import hashlib
    from importlib import metadata

    for file in metadata.files("finn-plus") or ():
        if file.hash is not None:
            digest = hashlib.new(file.hash.mode, Path(file.locate()).read_bytes()).digest()
            if base64.urlsafe_b64encode(digest).rstrip(b"=").decode() != file.hash.value:
                raise RuntimeError(f"{file} is not as finn-plus {FINN_VERSION} installed it")


if __name__ == "__main__":
    if sys.argv[1:] == ["--probe"]:
        probe()
    else:
        main(sys.argv[1])
