"""The peer's own Python environment, made once below a cache folder and used again: never the project's."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

from filelock import FileLock

from relations.errors import DependencyFailed

RECTOOLS = "rectools[torch]==0.19.0"
SCRIPT = Path(__file__).with_name("train_peer.py")


def default_home() -> Path:
    return Path.home() / ".cache" / "ratchet" / "bench" / "rectools"


def peer_python(torch_version: str, *, home: Path | None = None) -> Path:
    """The interpreter of an environment with RecTools and this torch; built at the first call, some 1.3 GB.

    The same torch on both sides, so that a ratio compares two trainers and not two builds of a library. Raises
    DependencyFailed when it cannot be made, with pip's last line.
    """
    home = default_home() if home is None else home
    python, stamp = home / "bin" / "python", home / "made-of.json"
    wanted = json.dumps([RECTOOLS, f"torch=={torch_version}", sys.version.split()[0]])
    home.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(home.with_suffix(".lock")):
        if python.exists() and stamp.exists() and stamp.read_text(encoding="utf-8") == wanted:
            return python
        shutil.rmtree(home, ignore_errors=True)
        for arguments in (
            [sys.executable, "-m", "venv", str(home)],
            [str(python), "-m", "pip", "install", "--quiet", RECTOOLS, f"torch=={torch_version}"],
        ):
            done = subprocess.run(arguments, capture_output=True, text=True, check=False)
            if done.returncode:
                said = (done.stderr or done.stdout).strip().splitlines() or ["no message"]
                raise DependencyFailed(
                    f"{home}: RecTools' environment could not be made ({said[-1]}); "
                    "check the package index and the space on the disk, then run again"
                )
        stamp.write_text(wanted, encoding="utf-8")
    return python
