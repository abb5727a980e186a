"""Distillation: a student learns from a teacher's outputs, and from how the teacher's features relate samples.

    teacher = torch_teacher(network, features)  or  onnx_teacher(path, features)  or any callable x → logits, or
                                                     x → (logits, {feature: array}), on float32 (N, *shape)
    lesson = Lesson(model, teacher, settings)
    fit(model, x, y, train, Job(teach=lesson))

The loss becomes (1 - share) · loss + share · T² · KL(s·teacher/T ‖ student/T) (Hinton, Vinyals and Dean, 2015; s is
teacher_scale, 1 there), and for each pair of features the mean squared distance of the two matrices of samples'
similarities (Tung and Mori, 2019): those are batch × batch, so a narrow student can follow a wide teacher without a
layer between them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from greenedge.errors import TargetError
from greenedge.train.recipe_config import DistilSettings

_BATCH = 256


class Lesson:
    """Job.teach: the loss with the teacher's part in it. `known` holds the teacher's answers to all training samples
    where these are always the same (no augmentation), else the teacher is asked batch by batch, at `macs` a sample."""

    def __init__(self, model, teacher: Callable, settings: DistilSettings, known=None, macs: int = 0):
        self.teacher = teacher
        self.settings = settings
        self.known = known
        self.macs = macs
        self.pairs = [tuple(pair.split("=")) for pair in settings.features]
        self.seen: dict = {}
        modules = dict(model.named_modules())
        odd = [student for student, _ in self.pairs if student not in modules]
        if odd:
            raise TargetError(
                f"[distil] features names {odd[0]!r}, which the student has not; its layers are: "
                f"{', '.join(sorted(modules.keys() - {''}))}."
            )
        for student, _ in self.pairs:
            modules[student].register_forward_hook(self._keeper(student))

    def _keeper(self, name: str):
        def keep(_module, _inputs, output):
            self.seen[name] = output.value if hasattr(output, "value") else output

        return keep

    def __call__(self, loss, outputs, x, indices):
        """The loss of one batch: `loss` from the labels, outputs (B, classes), x (B, *shape), indices into the training
        samples."""
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
            apart = functional.mse_loss(similarities(self.seen[student]), similarities(features[teacher]))
            value = value + self.settings.feature_weight * len(x) * apart
        return value

    def _answers(self, x, indices):
        if self.known is not None:
            logits, features = self.known
            return logits[indices], {name: array[indices] for name, array in features.items()}
        return ask(self.teacher, x.detach().numpy(), [name for _, name in self.pairs])


def mixed(augment: Callable | None) -> Callable:
    """Job.augment that mixes each input of a batch with another one, λ·x + (1 - λ)·x' with λ uniform, after `augment`."""
    import torch

    def mix(x, generator):
        x = x if augment is None else augment(x, generator)
        share = torch.rand(len(x), generator=generator).view(-1, *[1] * (x.dim() - 1))
        return share * x + (1 - share) * x[torch.randperm(len(x), generator=generator)]

    return mix


def similarities(features):
    """(B, B): the inner products of a batch's features, each row of length 1."""
    from torch.nn import functional

    flat = features.flatten(1)
    return functional.normalize(flat @ flat.T, dim=1)


def ask(teacher: Callable, x: np.ndarray, features: Sequence[str] = ()):
    """(logits, {feature: tensor}) of a teacher on x (N, *shape), in batches, detached from whatever graph made them."""
    import torch

    parts, found = [], {name: [] for name in features}
    for start in range(0, len(x), _BATCH):
        answer = teacher(x[start : start + _BATCH])
        logits, layers = answer if isinstance(answer, tuple) else (answer, {})
        missing = [name for name in features if name not in layers]
        if missing:
            raise TargetError(f"the teacher has no features {missing[0]!r}; it has: {', '.join(layers) or 'none'}.")
        parts.append(torch.as_tensor(np.asarray(logits), dtype=torch.float32))
        for name in features:
            found[name].append(torch.as_tensor(np.asarray(layers[name]), dtype=torch.float32))
    return torch.cat(parts), {name: torch.cat(arrays) for name, arrays in found.items()}


def torch_teacher(model, features: Sequence[str] = ()) -> Callable:
    """A torch network in eval mode as a teacher; `features` are paths of its layers."""
    import torch

    modules, seen = dict(model.named_modules()), {}
    odd = [name for name in features if name not in modules]
    if odd:
        raise TargetError(
            f"[distil] features names {odd[0]!r}, which the teacher has not; its layers are: "
            f"{', '.join(sorted(modules.keys() - {''}))}."
        )

    def keeper(name):
        return lambda _module, _inputs, output: seen.__setitem__(name, output.detach().numpy())

    for name in features:
        modules[name].register_forward_hook(keeper(name))

    def teach(x: np.ndarray):
        model.eval()
        with torch.no_grad():
            logits = model(torch.from_numpy(np.ascontiguousarray(x))).numpy()
        return logits, dict(seen)

    return teach


def onnx_teacher(path: Path, features: Sequence[str] = ()) -> Callable:
    """An ONNX file as a teacher; `features` are names of its tensors. onnxruntime runs it, nothing in it is executed
    as code.

    Raises TargetError for a file that is none, and for a tensor that it has not.
    """
    import onnx
    import onnxruntime
    from google.protobuf.message import DecodeError

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
        have = {item.name for item in proto.graph.output}
        proto.graph.output.extend(onnx.helper.make_empty_tensor_value_info(n) for n in features if n not in have)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except (
        DecodeError,
        onnx.checker.ValidationError,
        onnxruntime.capi.onnxruntime_pybind11_state.Fail,
        onnxruntime.capi.onnxruntime_pybind11_state.InvalidGraph,
        onnxruntime.capi.onnxruntime_pybind11_state.NotImplemented,
        onnxruntime.capi.onnxruntime_pybind11_state.InvalidArgument,
    ) as error:
        raise TargetError(
            f"[distil] teacher {path.name} is no ONNX model that onnxruntime runs "
            f"({str(error).splitlines()[0]}); QONNX is taught from its torch network."
        ) from None
    given, first = session.get_inputs()[0], session.get_outputs()[0].name

    def run(x: np.ndarray):
        logits, *layers = session.run([first, *features], {given.name: x.astype(np.float32)})
        return logits, dict(zip(features, layers))

    if given.shape and given.shape[0] == 1:  # a file of batch size 1
        return lambda x: _joined([run(x[k : k + 1]) for k in range(len(x))])
    return run


def _joined(answers: list):
    names = answers[0][1]
    return (
        np.concatenate([logits for logits, _ in answers]),
        {name: np.concatenate([layers[name] for _, layers in answers]) for name in names},
    )
