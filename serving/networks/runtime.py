"""ONNX Runtime, told not to report: it reads this when it is loaded, and a call later comes too late.

Otherwise 1.31 keeps an id of the device in ~/.cache/Microsoft and sends to its makers what it runs.
"""

import os

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
import onnxruntime as onnxruntime
