"""Every door by which the product reads a file back: how a whole one is written, and what opens it."""

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.fault_bundles import ITEMS, LENGTH, WIDTH, Releases
from bench.serve_worlds import random_fitted

if TYPE_CHECKING:
    from stores.bundle import Bundle

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Door:
    """`prepare` writes into a folder what `load` reads from it; each of those files is replaced in turn."""

    name: str
    prepare: Callable[[Path], object]
    load: Callable[[Path], object]


def light_doors(releases: Releases) -> Iterator[Door]:
    yield from _of_releases(releases)
    yield from _of_serving(releases)
    yield from _of_training()
    yield from _of_the_lake()


def heavy_doors(releases: Releases) -> Iterator[Door]:
    """Those behind libraries that take ten seconds to import."""
    yield from _of_encoders()
    yield _of_mlflow(releases)


# What serving opens


def _of_releases(releases: Releases) -> Iterator[Door]:
    from serving.networks.engine import Engine
    from stores.bundle import open_bundle
    from stores.deltas import Change, read_delta, write_delta
    from stores.side_index import NewItem, SideIndex, read_side_index, write_side_index

    home = releases.home
    whole, plain = (open_bundle(home.releases, digest) for digest in (releases.whole, releases.plain))
    for variant in ("fp32", "int8"):
        yield _rewritten(f"bundle {variant}", whole, partial(_opened, partial(Engine.load, variant=variant)))
    yield Door(
        "bundle as it is",
        lambda folder: shutil.copytree(whole.folder, folder / whole.digest),
        lambda folder: open_bundle(folder, whole.digest),
    )
    index = SideIndex(
        plain.digest, (NewItem("new", 0, True),), np.ones((1, WIDTH), np.float32), np.zeros(1, np.float32)
    )
    side = write_side_index(index, home.side_indexes, items_version=1, now=NOW)
    yield _rewritten(
        "side index",
        open_bundle(home.side_indexes, side.digest),
        lambda bundle: read_side_index(bundle.folder.parent, bundle.digest),
    )
    change = Change(np.array([1]), {_table(plain): np.ones((1, WIDTH), np.float32)}, {})
    delta = write_delta(change, plain, releases=home.releases, sequence=1, recipe="0" * 64, attestation={})
    yield _rewritten("delta", delta, read_delta)


def _table(bundle: "Bundle") -> str:
    """The initializer that has a vector for each row of the vocabulary."""
    import onnx

    graph = onnx.load_from_string(bundle.read("model.onnx")).graph
    return next(str(one.name) for one in graph.initializer if list(one.dims) == [ITEMS + 1, WIDTH])


def _rewritten(name: str, bundle: "Bundle", load: Callable[["Bundle"], object]) -> Door:
    """A bundle made anew around what replaces a file, so that its digests are right."""
    from stores.bundle import write_bundle

    describe = {key: value for key, value in bundle.manifest.items() if key not in ("format", "digest", "files")}

    def prepare(folder: Path) -> None:
        for file in bundle.manifest["files"]:
            (folder / file).write_bytes(bundle.read(file))

    def rewritten(folder: Path) -> object:
        made = folder.parent / "made-anew"
        try:
            return load(write_bundle(folder, describe=describe, releases=made, attestation={}))
        finally:
            shutil.rmtree(made, ignore_errors=True)

    return Door(name, prepare, rewritten)


def _opened(load: Callable[["Bundle"], Any], bundle: "Bundle") -> object:
    """And asked, so that nothing is put off."""
    from serving.networks.histories import Asked
    from serving.networks.queries import Query

    return load(bundle).best([Query(Asked([1, 2], [1, 1], [1, 0], [[], []]))], n=3)


def _of_serving(releases: Releases) -> Iterator[Door]:
    from stores import api_keys, blocklist, catalogue, facts, kill_switch, popularity, side_index
    from stores.home import Home
    from stores.ledger import Ledger
    from stores.preferences import PreferenceFiles, Preferences
    from stores.pseudonyms import Keys
    from stores.redis_rows import packed, unpacked
    from stores.settings import load_settings
    from stores.sqlite_state import SqliteState

    few = catalogue.Catalogue.of({"a": (True, 1.0, ["x"]), "b": (False, None, [])})
    told = facts.Facts(NOW, 1, NOW, dict.fromkeys(facts.FATES, 0))
    key = {"name": "shop", "roles": [api_keys.Role.RECOMMEND], "lifetime": None, "now": NOW}
    kill = kill_switch.Kill("t", "ada", "worse", NOW)
    in_force = side_index.InForce(1, side_index.NEVER, "r", {})
    stated = "[serving]\nport = 8890\n"
    event = packed(("u", "e", "item", "view", 1))
    one_file: dict[str, tuple[Callable[[Path], object], Callable[[Path], object]]] = {
        "catalogue.npz": (lambda path: catalogue.publish(path, few), catalogue.read),
        "catalogue": (
            lambda path: catalogue.publish(path, few),
            lambda path: catalogue.holds(path, version=0, now_us=0),
        ),
        "popularity.json": (lambda path: popularity.publish(path, [("a", 2.0)]), popularity.read),
        "facts.json": (lambda path: facts.publish(path, told), facts.read),
        "blocklist.json": (lambda path: blocklist.add(path, ["a"], by="ada", reason="r", now=NOW), blocklist.read),
        "kill-switch.json": (lambda path: kill_switch.add(path, kill), kill_switch.read),
        "api_keys.json": (lambda path: api_keys.add_key(path, **key), api_keys.read_keys),  # type: ignore[arg-type]
        "side.json": (lambda path: side_index.publish(path, in_force), side_index.read_in_force),
        "ratchet.toml": (
            lambda path: path.write_text(stated),
            lambda path: load_settings(path, environment={}),
        ),
        "preferences in Redis": (
            lambda path: path.write_text(Preferences().stated()),
            lambda path: Preferences.of(path.read_bytes()),
        ),
        "events in Redis": (lambda path: path.write_bytes(event), lambda path: unpacked(path.read_bytes())),
        "user_state.db": (_user_state(SqliteState, "close"), _user_state(SqliteState, "newest")),
        "ledger.db": (
            lambda path: Ledger(f"sqlite:///{path}").serving_state(),
            lambda path: Ledger(f"sqlite:///{path}").serving_state(),
        ),
    }
    for name, (write, read) in one_file.items():
        yield Door(name, partial(_at, name, write), partial(_at, name, read))
    yield Door("home.json", lambda folder: shutil.copy(releases.home.root / "home.json", folder), Home.open)
    yield Door("keys", Keys.load, Keys.load)
    yield Door(
        "preferences",
        lambda folder: PreferenceFiles(folder).keep("p1_user", Preferences(personalised=False, set_us=1)),
        lambda folder: PreferenceFiles(folder).read("p1_user"),
    )


def _at(name: str, act: Callable[[Path], object], folder: Path) -> object:
    return act(folder / name)


def _user_state(kind: Any, what: str) -> Callable[[Path], object]:
    def act(path: Path) -> None:
        state = kind(path)
        if what == "newest":
            state.newest("u", 3)
        state.close()

    return act


# What training opens


def _of_training() -> Iterator[Door]:
    import torch
    from safetensors.numpy import save_file

    from model.checkpoint import Checkpoint, Progress
    from model.fitted import load_fitted, save_fitted
    from model.modalities.cache import cached_vectors
    from model.vocabulary import Vocabulary

    fitted = random_fitted(12, seed=1, width=8, blocks=1, length=LENGTH)
    progress = Progress(fingerprint="f")
    encoder: Any = SimpleNamespace(digest="e" * 64)
    vectors = {"keys": np.zeros((1, 32), np.uint8), "vectors": np.zeros((1, 4), np.float32)}

    def vectors_at(folder: Path) -> None:
        (folder / encoder.digest[:32]).mkdir()
        save_file(vectors, folder / encoder.digest[:32] / "some.safetensors", metadata={"digest": ""})

    yield Door(
        "fitted model, optimiser and objective",
        lambda folder: save_fitted(fitted, folder / "fitted"),
        lambda folder: load_fitted(folder / "fitted"),
    )
    yield Door(
        "checkpoint",
        Checkpoint(progress, {"w": torch.zeros(2)}, {"w": torch.ones(2)}).write,
        partial(Checkpoint.read, fingerprint="f"),
    )
    yield Door("embedding cache", vectors_at, lambda folder: cached_vectors(folder, encoder, []))
    yield Door(
        "vocabulary.json",
        lambda folder: fitted.vocabulary.save(folder / "vocabulary.json"),
        lambda folder: Vocabulary.load(folder / "vocabulary.json"),
    )


def _of_the_lake() -> Iterator[Door]:
    import pyarrow as pa

    from bench.fault_homes import record, write
    from stores.readers.opening import open_delivery
    from stores.sequences.segments import Segment, SegmentRecord
    from stores.sequences.store import Manifest
    from stores.spool import RUN, read_run

    segment = SegmentRecord("s", 1, 1, 1, {})

    def array_at(path: Path) -> None:
        np.save(path, np.zeros(1, np.int64))

    def texts_at(path: Path) -> None:
        with pa.ipc.new_file(str(path), pa.schema([("event_id", pa.string())])) as file:
            file.write_table(pa.table({"event_id": ["e"]}))

    def delivered_at(path: Path) -> None:
        write(path, [record(1), record(2)])

    def delivered(path: Path) -> object:
        return list(open_delivery(path, uri=path.name, kind="events").chunks)

    yield Door("sequences", partial(_at, "user.npy", array_at), lambda folder: Segment(folder, segment).user_U)
    yield Door("sequences", partial(_at, "time.npy", array_at), lambda folder: Segment(folder, segment).column("time"))
    yield Door(
        "sequences", partial(_at, "event_id.arrow", texts_at), lambda folder: Segment(folder, segment).event_id_N
    )
    manifest = Manifest(0, "t", 0, 0, 1, (segment,))
    yield Door(
        "current.json",
        lambda folder: (folder / "current.json").write_text(manifest.as_json()),
        lambda folder: Manifest.of_json((folder / "current.json").read_text()),
    )
    yield Door("spooled run", lambda folder: (folder / RUN).write_text('{"key": "k", "name": "n"}'), read_run)
    for name in ("events.csv", "events.jsonl", "events.parquet", "events.arrow"):
        yield Door(name, partial(_at, name, delivered_at), partial(_at, name, delivered))


def _of_encoders() -> Iterator[Door]:
    import torch
    from safetensors.torch import save_file
    from transformers import BertConfig, BertModel, BertTokenizer

    from model.modalities.adapters import load_adapter
    from model.modalities.encoders import load_encoder
    from model.modalities.options import AdapterOptions, Kind
    from relations.errors import DataRejected, UsageError

    def encoder_at(folder: Path, *, torch_weights: bool) -> None:
        words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "red", "shoe"]
        BertTokenizer(vocab={word: place for place, word in enumerate(words)}).save_pretrained(folder)
        size = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
        model = BertModel(BertConfig(vocab_size=len(words), max_position_embeddings=8, **size), add_pooling_layer=False)
        model.save_pretrained(folder)
        if torch_weights:
            (folder / "model.safetensors").unlink()
            torch.save(model.state_dict(), folder / "pytorch_model.bin")

    def of_torch(folder: Path) -> None:
        with suppress(UsageError):  # weights of this form are not taken, whole ones neither
            load_encoder(str(folder), kind=Kind.TEXT)

    def adapter_at(folder: Path) -> None:
        stated = {"base": "another", "options": json.dumps(asdict(AdapterOptions())), "losses": "[]"}
        save_file({"w": torch.zeros(1)}, folder / "a.safetensors", metadata=stated)

    def adapter_of(folder: Path) -> None:
        encoder: Any = SimpleNamespace(digest="e", name="e")
        try:
            load_adapter(encoder, folder / "a.safetensors")
        except DataRejected as error:
            if "another encoder" not in str(error):  # which it finds after it has read the file
                raise

    yield Door(
        "encoder", partial(encoder_at, torch_weights=False), lambda folder: load_encoder(str(folder), kind=Kind.TEXT)
    )
    yield Door("encoder of torch's format", partial(encoder_at, torch_weights=True), of_torch)
    yield Door("adapter", adapter_at, adapter_of)


def _of_mlflow(releases: Releases) -> Door:
    """The model as MLflow has it, opened as MLflow's users open it; the product itself never does."""
    import mlflow.onnx
    import onnx

    graph = onnx.load(releases.home.releases / releases.plain / "model.onnx")
    return Door(
        "MLflow",
        lambda folder: mlflow.onnx.save_model(graph, folder / "model", pip_requirements=[]),
        lambda folder: mlflow.onnx.load_model(str(folder / "model")),
    )
