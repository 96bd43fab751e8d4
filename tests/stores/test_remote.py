"""Objects behind URLs: S3 over moto's server, HTTP, memory, and this machine's files."""

import functools
import logging
import os
import sys
import threading
from collections.abc import Iterator, Mapping
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import fsspec
import pytest

from relations.errors import DependencyFailed, SettingsError, UsageError
from stores.remote import listing, opened, resolved, scrubbed, shown
from stores.settings import load_settings


class Shop:
    """An S3 server with one bucket. boto3 is not needed: s3fs writes as well as it reads."""

    def __init__(self, endpoint: str) -> None:
        self.options = {"key": "shop-key", "secret": "geheimnis", "endpoint_url": endpoint}
        self.system = fsspec.filesystem("s3", **self.options)
        self.system.mkdir("shop")

    def put(self, objects: Mapping[str, bytes]) -> None:
        for key, data in objects.items():
            self.system.pipe(f"shop/{key}", data)


@pytest.fixture(scope="module")
def shop() -> Iterator[Shop]:
    pytest.importorskip("s3fs")
    server = pytest.importorskip("moto.server").ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server.start()
    host, port = server.get_host_and_port()
    yield Shop(f"http://{host}:{port}")
    server.stop()


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass

    def send_head(self) -> object:  # type: ignore[override]
        if "forbidden" in self.path:
            self.send_error(403)
            return None
        return super().send_head()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """(host:port, the folder that it serves)."""
    (tmp_path / "site").mkdir()
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(tmp_path / "site")))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"127.0.0.1:{server.server_port}", tmp_path / "site"
    server.shutdown()
    server.server_close()
    thread.join()


def read(uri: str, options: Mapping[str, str] = {}) -> bytes:
    with opened(uri, options) as stream:
        return stream.read()


def uris(uri: str, options: Mapping[str, str] = {}) -> list[str]:
    return [found.uri for found in listing(uri, options)]


def test_s3_is_listed_and_streamed(shop: Shop) -> None:
    large = os.urandom(1 << 20) * 20  # more than two of the blocks that it is read in
    shop.put({"log/a.csv.gz": b"a", "log/day=1/b.jsonl": large, "log/_SUCCESS": b"", "log/c.part": b"c", "log/": b""})
    whole = ["s3://shop/log/a.csv.gz", "s3://shop/log/day=1/b.jsonl"]
    assert uris("s3://shop/log", shop.options) == uris("s3://shop/log/", shop.options) == whole
    assert uris("s3://shop/log/*.gz", shop.options) == uris("s3://shop/log/a.csv.gz", shop.options) == whole[:1]
    assert uris("s3://shop/log/day=*/*.jsonl", shop.options) == whole[1:]
    assert uris("s3://shop/log/*.parquet", shop.options) == []
    assert read(whole[1], shop.options) == large
    before = {found.uri: found.marker for found in listing("s3://shop/log", shop.options)}
    shop.put({"log/a.csv.gz": b"changed"})
    after = listing("s3://shop/log", shop.options)  # no listing from a cache
    assert [found.size for found in after] == [7, 20 << 20]
    assert [found.marker != before[found.uri] for found in after] == [True, False]


def test_s3_says_what_is_missing_or_refused(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    shop.put({"one/a.csv": b"a"})
    for uri in ("s3://shop/one/b.csv", "s3://no-such-bucket/a.csv", "s3://shop/one/*.csv"):
        with pytest.raises(UsageError, match="no such object") as error, opened(uri, shop.options):
            pass
        assert str(error.value).startswith(uri)
    with pytest.raises(UsageError, match="s3://shop/one: is a folder"), opened("s3://shop/one", shop.options):
        pass
    for uri in ("s3://shop/nothing-here", "s3://no-such-bucket/*.csv"):
        with pytest.raises(UsageError, match="no such object"):
            listing(uri, shop.options)
    monkeypatch.setattr("moto.settings.INITIAL_NO_AUTH_ACTION_COUNT", 0)  # from here on moto asks who is there
    stranger = {**shop.options, "key": "somebody"}
    with pytest.raises(DependencyFailed, match=r"s3://shop/one/a\.csv: access refused .*key, secret, token"):
        read("s3://shop/one/a.csv", stranger)
    with pytest.raises(DependencyFailed, match=r"s3://shop/one/\*.csv: access refused"):
        listing("s3://shop/one/*.csv", stranger)


def test_http_streams_and_tells_missing_from_unreachable(site: tuple[str, Path]) -> None:
    host, folder = site
    (folder / "a.csv").write_bytes(b"one\n")
    (folder / "sub").mkdir()
    (folder / "sub" / "b.csv").write_bytes(b"two\n")
    assert read(f"http://me:geheim@{host}/a.csv?X-Amz-Signature=abcdef") == b"one\n"
    assert uris(f"http://{host}/a.csv") == [f"http://{host}/a.csv"]
    assert uris(f"http://{host}/") == [f"http://{host}/a.csv", f"http://{host}/sub/b.csv"]
    assert uris(f"http://{host}/*.csv") == [f"http://{host}/a.csv"]
    (before,) = listing(f"http://{host}/a.csv", {})
    os.utime(folder / "a.csv", (1e9, 1e9))
    assert listing(f"http://{host}/a.csv", {}) != [before]
    with pytest.raises(UsageError, match=r"http://.*/none: no such object"):
        read(f"http://{host}/none")
    with pytest.raises(DependencyFailed, match="access refused"):
        read(f"http://{host}/forbidden")
    for port in ("1", "2"):
        uri = f"http://me:geheim@127.0.0.1:{port}/a?token=abcdef"
        with pytest.raises(DependencyFailed, match=rf"^http://127\.0\.0\.1:{port}/a\?token=\*\*\*: cannot be") as error:
            read(uri)
        assert "geheim" not in str(error.value)
        assert "abcdef" not in str(error.value)
        assert error.value.__cause__ is None


def test_memory_and_files(tmp_path: Path) -> None:
    memory = fsspec.filesystem("memory")
    memory.pipe({"/feed/a.csv": b"1", "/feed/deep/b.csv": b"22"})
    try:
        assert uris("memory://feed") == ["memory://feed/a.csv", "memory://feed/deep/b.csv"]
        assert read("memory://feed/deep/b.csv") == b"22"
        with pytest.raises(UsageError, match="memory://feed/none: no such object"):
            read("memory://feed/none")
    finally:
        memory.rm("/feed", recursive=True)
    odd = tmp_path / "ä #1::b%20?.csv"
    odd.write_bytes(b"x")
    (tmp_path / ".hidden").mkdir()
    (tmp_path / ".hidden" / "c.csv").write_bytes(b"x")
    for uri in (str(tmp_path), f"file://{tmp_path}", f"{tmp_path}/*.csv"):
        (found,) = listing(uri, {})
        assert (found.uri, found.size) == (str(odd), 1)
        assert read(found.uri) == b"x"
    os.utime(odd, (1e9, 1e9))
    assert listing(str(tmp_path), {}) != [found]
    for uri, message in [(str(tmp_path), "is a folder"), (f"{tmp_path}/none", "no such file"), ("a\0b", "cannot be")]:
        with pytest.raises(UsageError, match=message):
            read(uri)


def test_protocols_and_options_that_are_not_understood(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match=r"foo://x: unknown protocol 'foo'; known are .*s3"):
        read("foo://x")
    monkeypatch.setitem(sys.modules, "gcsfs", None)  # as if it were not installed
    with pytest.raises(UsageError, match=r"gs://b/x: .*pip install gcsfs"):
        read("gs://b/x")
    with pytest.raises(UsageError, match=r"kafka://h:1/t: a topic .* \[sources\.NAME\]"):
        read("kafka://h:1/t")
    with pytest.raises(UsageError, match="option secret: the environment variable RATCHET_NO_SUCH is not set"):
        read("s3://b/x", {"secret": "env:RATCHET_NO_SUCH"})
    monkeypatch.setenv("RATCHET_TEST_SECRET", "geheim")
    assert resolved({"secret": "env:RATCHET_TEST_SECRET", "anon": "true"}) == {"secret": "geheim", "anon": "true"}


def test_no_secret_is_shown() -> None:
    assert shown("ftp://me:geheim@host/x") == "ftp://host/x"
    assert shown("https://host/x?part=1&X-Amz-Signature=a&sig=b") == "https://host/x?part=1&X-Amz-Signature=***&sig=***"
    assert shown("abfs://box@account.dfs/x") == "abfs://box@account.dfs/x"  # the container, not a user
    assert shown("s3://bucket/a@b") == "s3://bucket/a@b"
    said = scrubbed("me:geheim said secret1\nand abcdef", "ftp://me:geheim@h/?token=abcdef", {"secret": "secret1"})
    assert said == "*** said *** and ***"


@pytest.mark.parametrize("options", ["{ secret = 4711 }", "{ client_kwargs = { secret = 'x4711' } }", "['4711']"])
def test_settings_that_are_wrong_do_not_repeat_an_option(tmp_path: Path, options: str) -> None:
    (tmp_path / "ratchet.toml").write_text(f"[sources.shop]\nuri = 's3://b'\noptions = {options}\n")
    with pytest.raises(SettingsError, match=r"\[sources\.shop") as error:
        load_settings(tmp_path / "ratchet.toml", environment={})
    assert "4711" not in str(error.value)
