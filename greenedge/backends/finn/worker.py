"""FINN+ without Vivado, in a process and an environment of its own: job.json in, finn.json and RTL out.

    python -I worker.py job.json

Imports nothing from greenedge (it runs in the environment of requirements.txt) and nothing here is imported by it. The
job is a chain of layers in FINN's own terms (MVAU without activation, Thresholding), so FINN's streamlining never runs.
FINN+ specialises the layers, chooses the folding for the cycles asked for, inserts width converters and FIFOs, estimates
each layer's cycles and writes the RTL of the layers that the job marks with "rtl". All paths are relative to the
working directory; nothing is written outside it.

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
from pathlib import Path

FINN_VERSION = "1.6.1"
# FINN+ imports these while it loads; on our road none of their code runs, so none is installed (1.5 GB less).
ABSENT = ("torch", "onnxruntime", "onnxscript", "onnx_ir", "onnx_passes", "onnxoptimizer", "scipy", "pandas", "sklearn",
          "mip", "psutil", "matplotlib", "brevitas", "toml")


class AbsentType(type):
    """The class of every name taken from an absent package: it has any attribute, and refuses to be used."""

    def __getattr__(cls, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return AbsentType(f"{cls.__name__}.{name}", (), {})

    def __call__(cls, *args, **kwargs):
        raise RuntimeError(f"FINN+ wants to run {cls.__name__}, which greenedge's FINN environment does not have")


class AbsentModule(types.ModuleType):
    """Stands for a package that is imported but not used."""

    __all__: list = []

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return AbsentType(f"{self.__name__}.{name}", (), {})


class AbsentFinder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Answers imports of the absent packages."""

    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ABSENT:
            return importlib.machinery.ModuleSpec(name, self, is_package=True)
        return None

    def create_module(self, spec):
        return AbsentModule(spec.name)

    def exec_module(self, module):
        """There is nothing to execute."""


def say(line: str) -> None:
    """A line for the log and for whoever shows progress."""
    print(line, flush=True)


def boot(folder: Path) -> None:
    """Lets FINN+ be imported without Vivado and keeps all it writes inside `folder`. Before any other finn import."""
    sys.meta_path.insert(0, AbsentFinder())
    folder.mkdir(parents=True, exist_ok=True)
    os.environ.update(FINN_BUILD_DIR=str(folder), FINN_SETTINGS=str(folder / "settings.yaml"),
                      FINN_DEPS=str(folder / "no_deps"), NUM_DEFAULT_WORKERS="1")
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


def build_model(job: dict):
    """The layer chain as a qonnx ModelWrapper of FINN's hardware operations."""
    import numpy as np
    from onnx import TensorProto, helper
    from qonnx.core.datatype import DataType
    from qonnx.core.modelwrapper import ModelWrapper
    from qonnx.util.basic import qonnx_make_model

    def tensor(name, shape):
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    nodes, infos, initials, kinds = [], [], {}, {"stream_0": job["input"]["type"]}
    shape = [*job["input"]["vectors"], job["input"]["channels"]]
    source, last = tensor("stream_0", shape), tensor("stream_0", shape)
    for k, layer in enumerate(job["layers"]):
        data = np.load(layer["data"], allow_pickle=False).astype(np.float32)
        shape = [*layer["vectors"], layer["channels"]]
        last = tensor(f"stream_{k + 1}", shape)
        infos.append(last)
        initials[f"data_{k}"], kinds[f"data_{k}"] = data, layer["data_type"]
        kinds[f"stream_{k + 1}"] = layer["output_type"]
        common = dict(domain="finn.custom_op.fpgadataflow", backend="fpgadataflow", name=layer["name"], PE=1,
                      inputDataType=layer["input_type"], weightDataType=layer["data_type"],
                      outputDataType=layer["output_type"], numInputVectors=layer["vectors"],
                      preferred_impl_style="rtl")
        if layer["op"] == "MVAU":
            special = dict(MW=data.shape[0], MH=data.shape[1], SIMD=1, ActVal=0, noActivation=1,
                           accDataType=layer["output_type"])
        else:
            special = dict(NumChannels=layer["channels"], numSteps=data.shape[1], ActVal=layer["lowest"])
        nodes.append(helper.make_node(layer["op"], [f"stream_{k}", f"data_{k}"], [f"stream_{k + 1}"],
                                      **common, **special))
    graph = helper.make_graph(nodes, "chain", [source], [last], value_info=infos[:-1])
    model = ModelWrapper(qonnx_make_model(graph))
    for name, value in initials.items():
        model.set_initializer(name, value)
    for name, kind in kinds.items():
        model.set_tensor_datatype(name, DataType[kind])
    return model


def specialise_and_fold(model, job: dict):
    """RTL variants, PE and SIMD for the target cycles, then the converters and FIFOs between layers that differ."""
    from finn.transformation.fpgadataflow.insert_dwc import InsertDWC
    from finn.transformation.fpgadataflow.insert_fifo import InsertFIFO
    from finn.transformation.fpgadataflow.set_folding import SetFolding
    from finn.transformation.fpgadataflow.specialize_layers import SpecializeLayers
    from qonnx.custom_op.registry import getCustomOp

    names = [node.name for node in model.graph.node]
    model = model.transform(SpecializeLayers(job["part"]))
    for node, name in zip(model.graph.node, names):  # FINN drops the names; the readable ones are ours
        node.name = name
    model = model.transform(SetFolding(job["target_cycles"], mvau_wwidth_max=job["weight_bits_per_pe"]))
    fixed = {layer["name"]: layer.get("folding", {}) for layer in job["layers"]}
    for node, name in zip(model.graph.node, names):
        node.name = name
        for key, value in fixed[name].items():
            getCustomOp(node).set_nodeattr(key, value)
    model = model.transform(InsertDWC())
    model = model.transform(InsertFIFO(create_shallow_fifos=False))
    model = model.transform(SpecializeLayers(job["part"]))
    last = names[0]
    for index, node in enumerate(model.graph.node):
        found = next((n for n in names if f"data_{names.index(n)}" in node.input), None)
        node.name = found or f"{last}_to_next_{index}"
        last = found or last
    return model


def write_rtl(node, model, job: dict, folder: Path) -> dict:
    """FINN's own RTL of one layer, copied to `folder`: its top module, its files, packages first."""
    from finn.transformation.fpgadataflow.prepare_ip import _codegen_single_node
    from finn.util.basic import getHWCustomOp

    _codegen_single_node(node, model, job["part"], job["clock_ns"])
    layer = getHWCustomOp(node)
    made = Path(layer.get_nodeattr("code_gen_dir_ipgen"))
    folder.mkdir(parents=True, exist_ok=True)
    sources = [Path(file) for file in layer.get_rtl_file_list(abspath=True)]
    for path in [*sources, *made.glob("*.dat")]:
        shutil.copyfile(path, folder / path.name)
    names = sorted((path.name for path in sources), key=lambda name: not name.endswith("_pkg.sv"))
    return {"top": layer.get_nodeattr("gen_top_module"), "files": names}


def describe(node, model, job: dict) -> dict:
    """What the stitcher must know of one node of the finished chain."""
    from finn.util.basic import getHWCustomOp

    layer = getHWCustomOp(node)
    op = node.op_type.rsplit("_", 1)[0]
    known = next((entry for entry in job["layers"] if entry["name"] == node.name), None)
    out = {"name": node.name, "op": op, "cycles": int(layer.get_exp_cycles()),
           "in_elements": int(layer.get_folded_input_shape()[-1]),
           "out_elements": int(layer.get_folded_output_shape()[-1]),
           "out_bits": layer.get_output_datatype().bitwidth()}
    for key in ("PE", "SIMD", "depth"):
        if key in layer.get_nodeattr_types():
            out[key] = int(layer.get_nodeattr(key))
    if known and known.get("rtl"):
        out["rtl"] = write_rtl(node, model, job, Path("finn") / node.name)
    return out


def main(path: str) -> None:
    job = json.loads(Path(path).read_text())
    scratch = Path("finn-scratch").absolute()
    say("progress: importing FINN+")
    boot(scratch)
    check_version()
    model = build_model(job)
    say(f"progress: folding for {job['target_cycles']} cycles per inference")
    model = specialise_and_fold(model, job)
    say(f"progress: writing the RTL of {len(model.graph.node)} nodes")
    layers = [describe(node, model, job) for node in model.graph.node]
    result = {"finn_plus": FINN_VERSION, "layers": layers, "estimated_cycles": max(layer["cycles"] for layer in layers)}
    Path("finn.json").write_text(json.dumps(result, indent=1) + "\n")
    shutil.rmtree(scratch, ignore_errors=True)
    say(f"progress: FINN+ expects {result['estimated_cycles']} cycles per inference")


def probe() -> None:
    """Imports everything the road needs: a damaged environment fails here."""
    import tempfile

    with tempfile.TemporaryDirectory(prefix="greenedge-finn-") as folder:
        boot(Path(folder))
        check_version()
        import finn.transformation.fpgadataflow.insert_dwc
        import finn.transformation.fpgadataflow.insert_fifo
        import finn.transformation.fpgadataflow.prepare_ip
        import finn.transformation.fpgadataflow.set_folding
        import finn.transformation.fpgadataflow.specialize_layers  # noqa: F401
        check_files()
    say("ok")


def check_files() -> None:
    """Every file of finn-plus is as its package recorded it: the RTL among them is data that no import would miss."""
    import base64
    import hashlib
    from importlib import metadata

    for file in metadata.files("finn-plus"):
        if file.hash is not None:
            digest = hashlib.new(file.hash.mode, Path(file.locate()).read_bytes()).digest()
            if base64.urlsafe_b64encode(digest).rstrip(b"=").decode() != file.hash.value:
                raise RuntimeError(f"{file} is not as finn-plus {FINN_VERSION} installed it")


if __name__ == "__main__":
    if sys.argv[1:] == ["--probe"]:
        probe()
    else:
        main(sys.argv[1])
