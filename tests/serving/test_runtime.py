"""ONNX Runtime says nothing to its makers, whoever loads it first."""

import os
import re
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
ROOMS = ("model", "stores", "tasks", "flows", "serving", "simulation", "bench", "cli")


def test_serving_leaves_no_id_of_the_device(tmp_path: Path) -> None:
    """Without the variable 1.31 writes ~/.cache/Microsoft/DeveloperTools/.onnxruntime/deviceid when it is loaded."""
    environment = {name: text for name, text in os.environ.items() if not name.startswith(("ORT_", "XDG_"))}
    environment["HOME"] = str(tmp_path)
    code = "from serving.networks.runtime import onnxruntime; print(onnxruntime.__version__)"
    subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, env=environment, check=True, capture_output=True)
    assert list(tmp_path.iterdir()) == []


def test_nobody_loads_it_past_that() -> None:
    """Its parts for quantising are loaded where a network has been tried before."""
    found = {
        str(file.relative_to(REPOSITORY))
        for room in ROOMS
        for file in (REPOSITORY / room).rglob("*.py")
        if re.search(r"^\s*import onnxruntime", file.read_text(), re.MULTILINE)
    }
    assert found == {"serving/networks/runtime.py", "model/runtime.py"}
    assert (REPOSITORY / "serving/networks/runtime.py").read_text() == (REPOSITORY / "model/runtime.py").read_text()
