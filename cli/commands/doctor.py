"""`ratchet doctor`: what is wrong with this machine or this home, and what to do."""

import importlib.metadata
import shutil
import stat
import sys
from collections.abc import Callable

from cli.console import Context, Result, command
from relations.errors import RatchetError
from stores.home import Home

PINS = {"fastapi": "0.150.0", "sqlalchemy": "2.0.58", "prefect": "3.8.8", "mlflow": "3.17.2"}
MIN_FREE_GIB = 2.0


@command("doctor", short_help="Check this machine and this home.")
def doctor(context: Context) -> Result:
    """Check this machine and this home; each problem with its remedy. Exit 6 when something is wrong."""
    checks: list[tuple[str, Callable[[Context], str]]] = [
        ("python", _python),
        ("versions", _versions),
        ("settings", _settings),
        ("home", _home),
        ("disk", _disk),
        ("keys", _keys),
        ("ledger", _ledger),
        ("runtime", _runtime),
        ("notify", _notify),
    ]
    found = []
    for name, check in checks:
        try:
            found.append({"check": name, "ok": True, "says": check(context)})
        except (RatchetError, OSError, ImportError) as error:
            found.append({"check": name, "ok": False, "says": str(error)})
    well = all(entry["ok"] for entry in found)
    lines = tuple(f"{'✓' if entry['ok'] else '✗'} {entry['check']}: {entry['says']}" for entry in found)
    return Result({"checks": found, "well": well}, lines, 0 if well else 6)


def _python(context: Context) -> str:
    return sys.version.split()[0]


def _versions(context: Context) -> str:
    wrong = []
    for name, wanted in PINS.items():
        try:
            present = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # an extra that is not installed
        if present != wanted:
            wrong.append(f"{name} {present}, tested with {wanted}")
    if wrong:
        raise OSError("; ".join(wrong) + "; install with -c constraints.txt")
    return "the tested set"


def _settings(context: Context) -> str:
    context.settings  # noqa: B018 -- reading raises what is wrong
    return str(context.config_file or "defaults")


def _home(context: Context) -> str:
    home = Home.open(context.root)
    absent = [str(folder) for folder in home.folders() if not folder.is_dir()]
    if absent:
        raise OSError(f"missing {', '.join(absent)}; restore them from a backup, or make the folders")
    return f"{home.root}{' (simulation)' if home.simulation else ''}"


def _disk(context: Context) -> str:
    free = shutil.disk_usage(context.home.root).free / 2**30
    if free < MIN_FREE_GIB:
        raise OSError(f"{free:.1f} GiB free under {context.root}; make room for at least {MIN_FREE_GIB} GiB")
    return f"{free:.0f} GiB free"


def _keys(context: Context) -> str:
    open_to_others = [
        key.name
        for key in context.home.keys.iterdir()
        if key.suffix != ".lock" and key.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO)  # a lock holds nothing
    ]
    if open_to_others:
        raise OSError(f"{', '.join(open_to_others)}: readable by others; chmod 600 {context.home.keys}/*")
    return "readable by the owner only"


def _ledger(context: Context) -> str:
    from stores.ledger import Ledger

    problems = Ledger.of(context.home, context.settings).verify()
    if problems:
        raise OSError("; ".join(problems[:3]) + "; see `ratchet ledger verify`")
    return "the audit chain is whole"


def _runtime(context: Context) -> str:
    from serving.networks.runtime import onnxruntime

    available = onnxruntime.get_available_providers()
    if context.settings.serving.device == "cuda" and "CUDAExecutionProvider" not in available:
        raise OSError(f'[serving] device = "cuda", but ONNX Runtime {onnxruntime.__version__} has no CUDA provider')
    return f"ONNX Runtime {onnxruntime.__version__}, configured for {context.settings.serving.device}"


def _notify(context: Context) -> str:
    from tasks.notifying import undelivered, unreadable
    from tasks.trial_page.wording import several

    if not context.settings.notify.urls:
        return "nobody is told of trials that wait; see [notify] urls"
    wrong = [f"{name}: apprise cannot read this URL" for name in unreadable(context.settings)]
    wrong += undelivered(context.home, context.settings)
    if wrong:
        raise OSError("; ".join(wrong) + "; see `ratchet notify test`")
    return f"{several(len(context.settings.notify.urls), 'URL')} to tell, and nothing undelivered"
