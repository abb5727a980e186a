"""Distillation: a student learns from a teacher's outputs, and from how the teacher's features relate samples.

    teacher = torch_teacher(network, features)  or  onnx_teacher(path, features)  or any callable x → logits, or
                                                     x → (logits, {feature: array}), on float32 (N, *shape)
    distillation = Distillation(model, teacher, settings)
    fit(model, x, y, train, FitOptions(teach=distillation))

The loss becomes (1 - share) · loss + share · T² · KL(s·teacher/T ‖ student/T) (Hinton, Vinyals and Dean, 2015, with
s = teacher_scale = 1), and for each pair of features the mean squared distance of the two matrices of samples'
similarities (Tung and Mori, 2019): those are batch × batch, so a narrow student can follow a wide teacher without a
layer between them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from greenedge.errors import TargetError
from greenedge.train.layers import Augment, Features, Teacher, values_of
from greenedge.train.recipe_config import DistilSettings

if TYPE_CHECKING:
    import onnxruntime
    import torch
    from torch import nn

Answers: TypeAlias = "tuple[torch.Tensor, dict[str, torch.Tensor]]"  # logits (N, classes), {feature: (N, …)}
_BATCH = 256


class Distillation:
    """FitOptions.teach: the loss with the teacher's term in it.

    known   the teacher's answers to all training samples, where these are the same in every epoch (no augmentation);
            None asks the teacher batch by batch
    macs    multiply-accumulates of the teacher for a sample
    Raises TargetError for a feature that the student lacks.
    """

    def __init__(
        self,
        model: nn.Module,
        teacher: Teacher,
        settings: DistilSettings,
        known: Answers | None = None,
        macs: int = 0,
    ):
        self.teacher = teacher
        self.settings = settings
        self.known = known
        self.macs = macs
        self.pairs = [(pair.partition("=")[0], pair.partition("=")[2]) for pair in settings.features]
        self._outputs: dict[str, torch.Tensor] = {}
        modules = dict(model.named_modules())
        _check_features([student for student, _ in self.pairs], "the student", modules)
        for student, _ in self.pairs:
            modules[student].register_forward_hook(self._make_hook(student))

    def _make_hook(self, name: str) -> Callable[[nn.Module, Any, torch.Tensor], None]:
        def store(_module: nn.Module, _inputs: Any, output: torch.Tensor) -> None:
            self._outputs[name] = values_of(output)

        return store

    def __call__(
        self, loss: torch.Tensor, outputs: torch.Tensor, x: torch.Tensor, indices: torch.Tensor
    ) -> torch.Tensor:
        """The loss of one batch.

        loss        from the labels, a scalar
        outputs     (B, classes) of the student on x (B, *shape)
        indices     (B,) into the training samples
        Raises TargetError where the teacher has another number of classes.
        """
        from torch.nn import functional

        logits, features = self._answers(x, indices)
        if logits.shape != outputs.shape:
            raise TargetError(
                f"the teacher gives {tuple(logits.shape[1:])} outputs a sample and the student "
                f"{tuple(outputs.shape[1:])}; they must be of the same classes."
            )
        heat, share = self.settings.temperature, self.settings.share
        logits = logits * self.settings.teacher_scale
        soft = (
            functional.kl_div(
                functional.log_softmax(outputs / heat, 1),
                functional.log_softmax(logits / heat, 1),
                reduction="batchmean",
                log_target=True,
            )
            * heat**2
        )
        value = (1 - share) * loss + share * soft
        for student, teacher in self.pairs:
            distance = functional.mse_loss(similarities(self._outputs[student]), similarities(features[teacher]))
            value = value + self.settings.feature_weight * len(x) * distance
        return value

    def _answers(self, x: torch.Tensor, indices: torch.Tensor) -> Answers:
        if self.known is not None:
            logits, features = self.known
            return logits[indices], {name: array[indices] for name, array in features.items()}
        return ask(self.teacher, x.detach().numpy(), [name for _, name in self.pairs])


def mix_inputs(augment: Augment | None) -> Augment:
    """FitOptions.augment: `augment`, then each input of a batch mixed with another, λ·x + (1 - λ)·x', λ uniform."""
    import torch

    def mix(x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        x = x if augment is None else augment(x, generator)
        share = torch.rand(len(x), generator=generator).view(-1, *[1] * (x.dim() - 1))
        return share * x + (1 - share) * x[torch.randperm(len(x), generator=generator)]

    return mix


def similarities(features: torch.Tensor) -> torch.Tensor:
    """(B, B): the inner products of a batch's features, each row of length 1."""
    from torch.nn import functional

    flat = features.flatten(1)
    return functional.normalize(flat @ flat.T, dim=1)


def ask(teacher: Teacher, x: np.ndarray, features: Sequence[str] = ()) -> Answers:
    """(logits, {feature: tensor}) of a teacher on x (N, *shape), in batches, without gradients.

    Raises TargetError for a feature that the teacher does not give.
    """
    import torch

    parts: list[torch.Tensor] = []
    layers: dict[str, list[torch.Tensor]] = {name: [] for name in features}
    for start in range(0, len(x), _BATCH):
        answer = teacher(x[start : start + _BATCH])
        logits, answered = answer if isinstance(answer, tuple) else (answer, {})
        missing = [name for name in features if name not in answered]
        if missing:
            raise TargetError(f"the teacher has no features {missing[0]!r}; it has: {', '.join(answered) or 'none'}.")
        parts.append(torch.as_tensor(np.asarray(logits), dtype=torch.float32))
        for name in features:
            layers[name].append(torch.as_tensor(np.asarray(answered[name]), dtype=torch.float32))
    return torch.cat(parts), {name: torch.cat(arrays) for name, arrays in layers.items()}


def torch_teacher(model: nn.Module, features: Sequence[str] = ()) -> Teacher:
    """A torch network in eval mode as a teacher; `features` are paths of its layers.

    Raises TargetError for a path that the network lacks.
    """
    import torch

    modules = dict(model.named_modules())
    outputs: Features = {}
    _check_features(features, "the teacher", modules)

    def make_hook(name: str) -> Callable[[nn.Module, Any, torch.Tensor], None]:
        def store(_module: nn.Module, _inputs: Any, output: torch.Tensor) -> None:
            outputs[name] = output.detach().numpy()

        return store

    for name in features:
        modules[name].register_forward_hook(make_hook(name))

    def teach(x: np.ndarray) -> tuple[np.ndarray, Features]:
        model.eval()
        with torch.no_grad():
            logits = model(torch.from_numpy(np.ascontiguousarray(x))).numpy()
        return logits, dict(outputs)

    return teach


def _check_features(features: Sequence[str], owner: str, modules: dict[str, nn.Module]) -> None:
    odd = [name for name in features if name not in modules]
    if odd:
        raise TargetError(
            f"[distil] features names {odd[0]!r}, which {owner} has not; its layers are: "
            f"{', '.join(sorted(modules.keys() - {''}))}."
        )


def onnx_teacher(path: Path, features: Sequence[str] = ()) -> Teacher:
    """An ONNX file as a teacher, run by onnxruntime; `features` are names of its tensors.

    Nothing in the file is executed as code.

    Raises TargetError for a file that is no ONNX model, and for a tensor that it lacks.
    """
    session = _open_session(path, features)
    entry, first = session.get_inputs()[0], session.get_outputs()[0].name

    def run(x: np.ndarray) -> tuple[np.ndarray, Features]:
        logits, *layers = session.run([first, *features], {entry.name: x.astype(np.float32)})
        return logits, dict(zip(features, layers, strict=True))

    def run_one_by_one(x: np.ndarray) -> tuple[np.ndarray, Features]:
        answers = [run(x[k : k + 1]) for k in range(len(x))]
        return (
            np.concatenate([logits for logits, _ in answers]),
            {name: np.concatenate([layers[name] for _, layers in answers]) for name in features},
        )

    return run_one_by_one if entry.shape and entry.shape[0] == 1 else run


def _open_session(path: Path, features: Sequence[str]) -> onnxruntime.InferenceSession:
    """A session whose outputs are those of the file and then `features`. Raises TargetError as onnx_teacher says."""
    import onnx
    import onnxruntime
    from google.protobuf.message import DecodeError
    from onnxruntime.capi import onnxruntime_pybind11_state as ort

    if not path.is_file():
        raise TargetError(f"[distil] teacher: there is no file {path}; give an ONNX file in the recipe's folder.")
    try:
        proto = onnx.load(path)
        tensors = {name for node in proto.graph.node for name in node.output}
        odd = [name for name in features if name not in tensors]
        if odd:
            raise TargetError(
                f"[distil] features names {odd[0]!r}, which {path.name} has not; its tensors are: "
                f"{', '.join(sorted(tensors))}."
            )
        outputs = {item.name for item in proto.graph.output}
        proto.graph.output.extend(onnx.helper.make_empty_tensor_value_info(n) for n in features if n not in outputs)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        return onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except (
        DecodeError,
        onnx.checker.ValidationError,
        ort.Fail,
        ort.InvalidGraph,
        ort.NotImplemented,
        ort.InvalidArgument,
    ) as error:
        raise TargetError(
            f"[distil] teacher {path.name} is no ONNX model that onnxruntime runs "
            f"({str(error).splitlines()[0]}); QONNX is taught from its torch network."
        ) from None
