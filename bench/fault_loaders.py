"""A canary at every door by which files come in: Python objects that make a file when they are loaded.

Each file that the product reads back, of every kind, is replaced by each form of the canary in turn, as by somebody who
can write to the disk, or publishes a release with the digests that belong to it. What must not happen is that the
canary's file appears. A door that would not open on the whole file either would prove nothing, so that is looked at
too; and so is a loader that does execute what it reads, which must show.
"""

import ast
import io
import os
import pickle
import shutil
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np

from bench.fault_bundles import Releases, make_releases, quiet
from bench.fault_doors import Door, heavy_doors, light_doors
from bench.rows import Row, at_least, at_most

REPOSITORY = Path(__file__).parent.parent
SHIPPED = ("relations", "model", "gate", "expectations", "stores", "tasks", "flows", "serving", "simulation", "cli")
EXECUTING = {"pickle", "_pickle", "cPickle", "cloudpickle", "joblib", "dill", "shelve", "marshal", "jsonpickle"}
"""Modules whose reading runs what it reads."""
EXECUTABLE = 5
"""Forms of the canary but the last."""


class Canary:
    """Makes the file `path` when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mknod, (str(self.path),)


def payloads(canary: Path) -> dict[str, bytes]:
    """Form → bytes."""
    raw = pickle.dumps(Canary(canary))
    array = np.array([Canary(canary)], dtype=object)
    npy, npz, torches = io.BytesIO(), io.BytesIO(), io.BytesIO()
    np.save(npy, array, allow_pickle=True)
    names = ("stated", "ids", "ends", "available", "price", "category_ends", "categories", "names", "keys", "vectors")
    np.savez(npz, **dict.fromkeys(names, array))  # type: ignore[arg-type]
    with zipfile.ZipFile(torches, "w") as archive:  # as torch.save writes it
        archive.writestr("archive/data.pkl", raw)
        archive.writestr("archive/version", b"3\n")
    text = f'!!python/object/apply:os.mknod ["{canary}"] # __import__("os").mknod("{canary}")\n'
    stated = f'{{"py/reduce": [{{"py/function": "os.mknod"}}, {{"py/tuple": ["{canary}"]}}], "format": 1}}\n'
    forms = {"raw": raw, "NPY": npy.getvalue(), "NPZ": npz.getvalue(), "torch": torches.getvalue()}
    return {**forms, "YAML": text.encode(), "JSON": stated.encode()}


def measure_canaries(folder: Path, *, releases: Releases | None = None, heavy: bool = True) -> list[Row]:
    """`heavy`: encoders, adapters and MLflow too, whose libraries take ten seconds to import."""
    made = make_releases(folder / "made") if releases is None else releases
    doors = [*light_doors(made), *(heavy_doors(made) if heavy else ())]
    tried, executed, closed = 0, [], []
    with quiet():
        for door in doors:
            count, ran, opens = knock(door, folder)
            tried += count
            executed += ran
            closed += [] if opens else [door.name]
    _, found, _ = knock(
        Door("loaders that execute", lambda place: (place / "x").write_text("whole"), _executes), folder
    )
    offences = [what for room in SHIPPED for what in unsafe_loads(REPOSITORY / room)]
    return [
        at_least(f"canaries at {len(doors)} loaders: files put in their way", tried, 5 * len(doors), unit="files"),
        at_most(f"canaries: executed {', '.join(executed)}".rstrip(), len(executed), 0, unit="times"),
        at_most(f"canaries: loaders shut to whole files too {', '.join(closed)}".rstrip(), len(closed), 0, unit=""),
        at_least("forms of the canary that its own loaders execute", len(found), EXECUTABLE, unit="forms"),
        at_most(f"shipped code that could {', '.join(offences)}".rstrip(), len(offences), 0, unit="places"),
    ]


def knock(door: Door, folder: Path) -> tuple[int, list[str], bool]:
    """How many files were put in the way, which of them were executed, and whether the door opens on whole ones."""
    canary, sound, place = (folder / name for name in ("canary", "sound", "place"))
    for old in (sound, place):
        shutil.rmtree(old, ignore_errors=True)
    sound.mkdir(parents=True)
    door.prepare(sound)
    names = sorted(path.relative_to(sound) for path in sound.rglob("*") if path.is_file())
    tried, executed = 0, []
    for name in names:
        for form, content in payloads(canary).items():
            shutil.copytree(sound, place)
            (place / name).write_bytes(content)
            with suppress(Exception):  # refusing is what it should do
                door.load(place)
            tried += 1
            if canary.exists():
                executed.append(f"{door.name}/{name} ({form})")
                canary.unlink()
            shutil.rmtree(place)
    try:
        door.load(sound)
    except Exception:  # whatever it is, the door proves nothing
        return tried, executed, False
    return tried, executed, bool(names)


def unsafe_loads(folder: Path) -> list[str]:
    """Imports and calls below `folder` by which reading a file may run code in it, as "file:line what"."""
    return [
        f"{path.relative_to(folder.parent)}:{node.lineno} {what}"  # type: ignore[attr-defined]  # imports and calls have
        for path in sorted(folder.rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_bytes()))
        if (what := _offence(node))
    ]


def _offence(node: ast.AST) -> str:
    if isinstance(node, ast.Import | ast.ImportFrom):
        modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
        return next((name for name in modules if name.split(".")[0] in EXECUTING), "")
    if not isinstance(node, ast.Call):
        return ""
    called = ast.unparse(node.func)
    said = {word.arg: ast.unparse(word.value) for word in node.keywords}
    owner, _, method = called.rpartition(".")
    torch_load = called == "torch.load" and said.get("weights_only") != "True"
    encoder = method == "from_pretrained" and owner.startswith("AutoModel") and said.get("use_safetensors") != "True"
    yaml = owner == "yaml" and method in ("load", "unsafe_load", "full_load") and "Safe" not in said.get("Loader", "")
    mlflow = "mlflow" in owner and method in ("load_model", "load_context")
    if torch_load or encoder or yaml or mlflow or method == "read_pickle" or called in ("eval", "exec"):
        return called
    words = {"allow_pickle": "False", "trust_remote_code": "False"}
    return next((f"{called}({word}=…)" for word, safe in words.items() if said.get(word, safe) != safe), "")


def _executes(place: Path) -> None:
    """By every loader that runs what it reads: each canary but the one in JSON, which none here does."""
    import torch
    import yaml  # type: ignore[import-untyped]

    file = place / "x"
    loaders: tuple[Callable[[], object], ...] = (
        lambda: pickle.loads(file.read_bytes()),
        lambda: np.load(file, allow_pickle=True)["ids"],
        lambda: torch.load(file, weights_only=False),
        lambda: yaml.unsafe_load(file.read_text()),
    )
    for load in loaders:
        with suppress(Exception):
            load()
