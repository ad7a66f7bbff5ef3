"""ONNX Runtime as every room imports it: without its telemetry.

From 1.31 on it writes a device id and a database of events under ~/.cache/Microsoft and looks up a
host of its makers, in every process that loads it, unless this variable is set before.
"""

import os

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import onnxruntime as ort  # noqa: TID251

__all__ = ["ort"]
