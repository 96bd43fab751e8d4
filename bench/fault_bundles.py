"""Bundles that are damaged or reach out of their folder: none is loaded, and the model that served goes on serving."""

import contextlib
import hashlib
import json
import logging
import random
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.rows import Row, at_least, at_most
from bench.serve_worlds import START, crown_first, promote, random_fitted, record_version

if TYPE_CHECKING:
    from fastapi.testclient import TestClient

    from serving.choosing.snapshots import Watcher
    from stores.bundle import Bundle
    from stores.home import Home
    from stores.serving_records import ServingState

ITEMS, WIDTH, LENGTH = 300, 16, 12
SEED = 11


@dataclass(frozen=True)
class Releases:
    """A home with two versions of a small ranker that was really exported; the ledger's champion is `plain`."""

    home: "Home"
    plain: str
    """Version 1: graph, vocabulary and feature spec."""
    whole: str
    """Version 2: with all that a bundle may hold: an encoder, weights beside the graph, an index, an int8 variant."""

    def copied(self, root: Path) -> "Releases":
        from stores.home import Home

        shutil.copytree(self.home.root, root)
        return Releases(Home.open(root), self.plain, self.whole)


def make_releases(root: Path) -> Releases:
    """Some ten seconds of a core, nearly all of them the export."""
    import numpy as np
    import onnx
    import pyarrow as pa

    from model.compression.forms import Form
    from model.compression.quantising import dynamic_int8
    from model.export import export_release
    from model.nearest import NearestOptions, add_nearest
    from model.sequences import Histories, split_by_time
    from stores import popularity
    from stores.bundle import write_bundle
    from stores.home import Home
    from stores.ledger import Ledger
    from stores.settings import load_settings

    home, files = Home.create(root), root / "exported"
    fitted = random_fitted(ITEMS, seed=SEED, width=WIDTH, blocks=1, length=LENGTH)
    describe = export_release(fitted, files).describe | {"kind": "full"}
    plain = write_bundle(files, describe=describe, releases=home.releases, attestation={"seconds": 1.0})

    variant = dynamic_int8(onnx.load(files / "model.onnx"))
    (files / Form.INT8.file).write_bytes(variant.SerializeToString(deterministic=True))
    stated = {"file": Form.INT8.file, "precision": Form.INT8.precision, "state": "own"}
    rng = np.random.default_rng(SEED)
    events = pa.table(
        {
            "user": [f"u{row % 220}" for row in range(1_100)],
            "item_id": [f"item-{item}" for item in rng.integers(1, ITEMS + 1, 1_100)],
            "behaviour": ["view"] * 1_100,
            "event_time": pa.array(np.arange(1_100) * 1_000_000, pa.timestamp("us", tz="UTC")),
        }
    )
    holdout = split_by_time(Histories.from_table(events), holdout_share=0.5).holdout
    built = add_nearest(fitted, files, holdout=holdout, options=NearestOptions(above=1, recall=0.0, best=10))
    if not built.built:
        raise RuntimeError(f"the release has no index: {built.reason}")
    whole = write_bundle(
        files, describe=describe | {"variants": {"int8": stated}}, releases=home.releases, attestation={"seconds": 2.0}
    )
    shutil.rmtree(files)

    popularity.publish(home.popularity, [(f"item-{item}", ITEMS - item) for item in range(1, ITEMS + 1)])
    ledger = Ledger.of(home, load_settings(None, environment={}))
    for version, bundle in enumerate((plain, whole), 1):
        record_version(ledger, version, bundle.digest)
    crown_first(ledger)
    return Releases(home, plain.digest, whole.digest)


class Named:
    """A ledger that names the champion it is told to."""

    def __init__(self, digest: str) -> None:
        self.digest = digest

    def serving_state(self) -> "ServingState":
        from stores.ledger_records import Champion
        from stores.serving_records import ServingState

        return ServingState(Champion(1, self.digest, 1, START), None)

    def breach_delta(self, digest: str, *, reason: str, now: object) -> bool:
        return False


class Watched:
    """A watcher that served `releases.plain`, and then the ledger names another."""

    def __init__(self, releases: Releases) -> None:
        self.releases = releases
        self.ledger = Named(releases.plain)
        self.watcher = _watcher(releases.home, self.ledger)
        self.watcher.refresh()
        self._expected = self._best()
        self.lost = 0
        """Looks after which another model than the old one served, or it gave another answer."""

    def loads(self, digest: str) -> bool:
        """Whether the bundle is loaded once the ledger names it."""
        self.ledger.digest = digest
        self.watcher.refresh()
        serving = self.watcher.current.champion
        loaded = digest in self.watcher.engines.digests
        self.lost += not loaded and (
            serving is None or serving.digest != self.releases.plain or self._best() != self._expected
        )
        return loaded

    def _best(self) -> object:
        from serving.networks.histories import Asked
        from serving.networks.queries import Query

        serving = self.watcher.current.champion
        assert serving is not None
        return serving.engine.best([Query(Asked([3, 5], [1, 2], [9, 1], [[], []]), [7])], n=10)


def measure_corrupt(
    folder: Path, *, positions: int = 1_000, requests: int = 300, releases: Releases | None = None
) -> list[Row]:
    """`positions` bytes flipped or files cut, one at a time, anywhere in a bundle; then six ways out of its folder."""
    made = make_releases(folder / "made") if releases is None else releases
    with quiet():
        return _corrupt(made, folder, positions=positions, requests=requests)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without a warning for each of a thousand files that are refused."""
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


def _corrupt(made: Releases, folder: Path, *, positions: int, requests: int) -> list[Row]:
    home = made.copied(folder / "corrupt").home
    watched = Watched(Releases(home, made.plain, made.whole))
    rng = random.Random(SEED)
    bundle = home.releases / made.whole
    files = sorted(path for path in bundle.rglob("*") if path.is_file())
    loaded = 0
    for number in range(positions):
        path = files[number % len(files)]
        sound = path.read_bytes()
        path.write_bytes(damaged(sound, rng))
        loaded += watched.loads(made.whole)
        path.write_bytes(sound)
    escaped = sum(_escapes(watched, name) for name in ESCAPES)
    sound_loads = watched.loads(made.whole)
    failed, told = _named_by_the_ledger(made.copied(folder / "running"), requests=requests)
    return [
        at_most(f"{positions:,} positions of a bundle of {len(files)} files: loaded", loaded, 0, unit="times"),
        at_most(f"{len(ESCAPES)} paths out of a bundle: loaded", escaped, 0, unit="times"),
        at_most("corrupt bundles: looks after which the old model did not serve", watched.lost, 0, unit="times"),
        at_least("the same bundle, whole: loaded", int(sound_loads), 1, unit="times"),
        at_most(
            f"the ledger names a corrupt bundle, {requests} requests: not of the old model", failed, 0, unit="requests"
        ),
        at_least("the ledger names a corrupt bundle: /readyz says so", int(told), 1, unit="times"),
    ]


def damaged(sound: bytes, rng: random.Random) -> bytes:
    """With one byte changed, or cut short."""
    at = rng.randrange(len(sound))
    return (
        sound[:at] if rng.random() < 0.5 else sound[:at] + bytes([sound[at] ^ rng.randrange(1, 256)]) + sound[at + 1 :]
    )


def forged(bundle: "Bundle", files: object) -> str:
    """A copy of the bundle whose manifest names `files` and is consistent in itself, as an attacker would make it."""
    stated = {key: value for key, value in bundle.manifest.items() if key != "digest"} | {"files": files}
    digest = hashlib.sha256(_canonical(stated)).hexdigest()
    folder = bundle.folder.parent / digest
    shutil.copytree(bundle.folder, folder)
    (folder / "manifest.json").write_bytes(_canonical({**stated, "digest": digest}))
    attestation = {"digest": digest}
    attestation["checksum"] = hashlib.sha256(_canonical(attestation)).hexdigest()
    (folder / "attestation.json").write_bytes(_canonical(attestation))
    return digest


def _canonical(stated: Mapping[str, Any]) -> bytes:
    return (json.dumps(stated, sort_keys=True, indent=2) + "\n").encode("ascii")


def _named_path(name: str) -> Callable[["Bundle", Path], str]:
    """The manifest names a file that is there, with its size and SHA-256, by a path that leads out."""

    def named(bundle: "Bundle", secret: Path) -> str:
        entry = {"sha256": hashlib.sha256(secret.read_bytes()).hexdigest(), "bytes": secret.stat().st_size}
        return forged(bundle, {**bundle.manifest["files"], name.format(secret=secret): entry})

    return named


def _link_to_file(bundle: "Bundle", secret: Path) -> str:
    shutil.move(bundle.folder / "model.onnx", secret)  # the same bytes, reached through a link
    (bundle.folder / "model.onnx").symlink_to(secret)
    return bundle.digest


def _link_to_folder(bundle: "Bundle", secret: Path) -> str:
    moved = secret.with_name("moved")
    shutil.move(bundle.folder, moved)
    bundle.folder.symlink_to(moved)
    return bundle.digest


ESCAPES: dict[str, Callable[["Bundle", Path], str]] = {
    "absolute": _named_path("{secret}"),
    "..": _named_path("../../secret"),
    "backslash": _named_path("..\\..\\secret"),
    "NUL": _named_path("model.onnx\0/../../../secret"),
    "link to a file": _link_to_file,
    "link to a folder": _link_to_folder,
}


def _escapes(watched: Watched, name: str) -> bool:
    """Whether the bundle is loaded all the same; it is made whole again after that."""
    from stores.bundle import open_bundle

    releases = watched.releases.home.releases
    kept, secret = releases.parent / "kept", releases.parent / "secret"
    secret.write_bytes(b"secret")
    shutil.copytree(releases / watched.releases.whole, kept)
    loaded = watched.loads(ESCAPES[name](open_bundle(releases, watched.releases.whole), secret))
    whole = releases / watched.releases.whole
    whole.unlink() if whole.is_symlink() else shutil.rmtree(whole)
    shutil.rmtree(releases.parent / "moved", ignore_errors=True)
    kept.rename(whole)
    return loaded


def _named_by_the_ledger(releases: Releases, *, requests: int) -> tuple[int, bool]:
    """A running app whose ledger promotes the bundle after it was damaged: answers not of the old model, and whether
    the app tells of it."""
    from fastapi.testclient import TestClient

    from serving.app import create_app
    from stores.ledger import Ledger
    from stores.settings import Settings

    settings = Settings.model_validate({"serving": {"poll_seconds": 0.05}})
    path = releases.home.releases / releases.whole / "nearest.index"
    path.write_bytes(damaged(path.read_bytes(), random.Random(SEED)))
    with TestClient(create_app(releases.home, settings), base_url="http://127.0.0.1") as client:
        failed = int(not _answered(client, releases.plain, user=0))
        promote(Ledger.of(releases.home, settings), 2, name="corrupt")
        told, asked, until = False, 0, time.monotonic() + 60
        while asked < requests and time.monotonic() < until:  # `requests` of them after it was noticed
            failed += not _answered(client, releases.plain, user=asked)
            told = told or any("champion 2" in problem for problem in client.get("/readyz").json()["problems"])
            asked += told
    return failed, told


def _answered(client: "TestClient", digest: str, *, user: int) -> bool:
    answer = client.post("/v1/recommend", json={"user_id": f"u{user}", "k": 5})
    return answer.status_code == 200 and answer.json()["model"]["digest"] == digest


def _watcher(home: "Home", ledger: Named) -> "Watcher":
    from datetime import UTC, datetime

    from serving.choosing.offers import OfferWatch
    from serving.choosing.snapshots import Watcher
    from serving.networks.side import SideWatch

    return Watcher(
        ledger,
        releases=home.releases,
        popularity_list=home.popularity,
        offers=OfferWatch(catalogue_file=home.catalogue, blocklist_file=home.blocklist),
        filters_mb=1.0,
        sides=SideWatch(in_force_file=home.side_in_force, folder=home.side_indexes),
        device="cpu",
        threads=1,
        retry_seconds=0.0,
        now=lambda: datetime.now(UTC),
    )
