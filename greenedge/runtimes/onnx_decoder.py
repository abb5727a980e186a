"""A decoder's ONNX model in ONNX Runtime, one token at a time; its caches are tensors that go in and come out."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray


class OnnxDecoder:
    """`position` tokens have been taken; keys and values of them are kept."""

    def __init__(self, model: onnx.ModelProto, threads: int = 1) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        self.reset()

    def reset(self) -> None:
        """Forgets every token."""
        self.position = 0
        self._caches: dict[str, NDArray[Any]] = {
            one.name: np.zeros([0 if isinstance(axis, str) else axis for axis in one.shape], np.uint8)
            for one in self._session.get_inputs()
            if one.name not in ("token", "position")
        }

    def step(self, token: int) -> NDArray[np.int32]:
        """The logits, (vocabulary,), behind one more token."""
        feed = {"token": np.array([token]), "position": np.array([self.position]), **self._caches}
        logits, *grown = self._session.run(None, feed)
        self._caches = dict(zip(self._caches, grown, strict=True))
        self.position += 1
        found: NDArray[np.int32] = logits[0]
        return found
