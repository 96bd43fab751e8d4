"""Objects behind any fsspec URL: opened as streams, listed with a marker of their content.

Secrets stay out of sight. `options` may say `env:NAME` in place of a value; a URL is shown without its credentials;
no message repeats the value of an option that holds one.
"""

import hashlib
import io
import os
import re
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO, cast

from relations.errors import DependencyFailed, RatchetError, UsageError

ENVIRONMENT = "env:"
_SECRET = re.compile(r"key|secret|token|passw|credential|sig|connection_string|sasl", re.IGNORECASE)
# Of Azure's URLs the part before the @ names a container.
_USER_INFO = re.compile(r"(?<!abfs)(?<!abfss)(?<!wasb)(?<!wasbs)://([^/?#]*)@")
_QUERY_VALUE = re.compile(r"([?&])([^=&#]+)=([^&#]*)")
_PACKAGES = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "abfs": "adlfs", "abfss": "adlfs",
             "az": "adlfs", "adl": "adlfs", "http": "aiohttp", "https": "aiohttp", "sftp": "paramiko",
             "ssh": "paramiko"}  # fmt: skip
# What file systems call a thing that changes when the content does, surest first.
_TAGS = ("etag", "ETag", "md5Hash", "content_md5", "Content-MD5", "Digest")
_TIMES = ("LastModified", "last_modified", "mtime", "updated", "modified", "created", "Last-Modified")
_BLOCK = 8 << 20


@dataclass(frozen=True)
class Found:
    """One object of a listing. `marker`: equal as long as the content is (its etag, else time and size in bytes)."""

    uri: str
    size: int | None
    marker: str


def is_local(uri: str) -> bool:
    return uri.startswith("file://") or "://" not in uri


def local_path(uri: str) -> Path:
    return Path(uri.removeprefix("file://")).absolute()


def shown(uri: str) -> str:
    """The URL as it may be stored and printed: without user and password, and without a signed query's secrets."""
    bare = _USER_INFO.sub("://", printable(uri))
    return _QUERY_VALUE.sub(lambda said: said[0] if not _SECRET.search(said[2]) else f"{said[1]}{said[2]}=***", bare)


def resolved(options: Mapping[str, str]) -> dict[str, str]:
    """The options with each `env:NAME` replaced by that variable. Raises UsageError naming a variable that is unset."""
    found = {}
    for option, value in options.items():
        if value.startswith(ENVIRONMENT):
            name = value.removeprefix(ENVIRONMENT)
            if name not in os.environ:
                raise UsageError(f"option {option}: the environment variable {name} is not set; export it, or mend it")
            value = os.environ[name]
        found[option] = value
    return found


def scrubbed(text: str, uri: str, options: Mapping[str, str]) -> str:
    """`text` on one line of at most 500 characters, with no secret of the URL or of the resolved options in it."""
    hidden = {value for option, value in options.items() if _SECRET.search(option)}
    for said in _USER_INFO.findall(uri):
        hidden |= {said, *said.split(":", 1)}
    hidden |= {said[2] for said in _QUERY_VALUE.findall(uri) if _SECRET.search(said[1])}
    text = " ".join(text.split())
    for secret in sorted((value for value in hidden if len(value) > 3), key=len, reverse=True):
        text = text.replace(secret, "***")
    return text[:500]


@contextmanager
def opened(uri: str, options: Mapping[str, str]) -> Iterator[BinaryIO]:
    """The object's bytes as a stream; of one that is not local, a few times 8 MiB are in memory at once.

    Raises UsageError (no such object, a folder, an unknown protocol), DependencyFailed (network, credentials), also
    from the stream's `read`.
    """
    if is_local(uri):
        with _opened_here(uri) as file:
            yield file
        return
    stated = resolved(options)
    with _told(uri, stated):
        system, path = _system(uri, stated)
        if not _is_http(uri) and system.info(path)["type"] == "directory":
            raise IsADirectoryError
        # HTTP by one request from beginning to end: not every server answers for ranges.
        stream = system.open(path, "rb", block_size=0 if _is_http(uri) else _BLOCK)
    with stream, io.BufferedReader(_Told(stream, uri, stated), _BLOCK) as reader:
        yield reader


def listing(uri: str, options: Mapping[str, str]) -> list[Found]:
    """The objects below a folder at any depth, or those that match a pattern, or the one named; in order of name.

    Names with a leading dot or underscore and `.part` files are still being written and left out. An empty folder or
    a pattern without matches is empty. Raises as `opened`, and UsageError where the server tells nothing by which a
    changed object could be known.
    """
    stated = resolved(options)
    with _told(uri, stated):
        system, path = _system(uri, stated)
        system.invalidate_cache()
        pattern = re.search(r"[*\[]" if _is_http(uri) else r"[*?\[]", path)
        if pattern:
            base = path[: pattern.start()].rpartition("/")[0]
            entries = system.glob(path, detail=True)
            bucket = base.partition("/")[0]
            if not entries and bucket and not _is_http(uri):
                system.info(bucket)  # nothing matches, or there is no such bucket
        elif (_is_http(uri) and path.endswith("/")) or (info := system.info(path))["type"] == "directory":
            base = path
            entries = system.find(path, detail=True)
        else:
            base = path.rpartition("/")[0]
            entries = {path: info}
        # Only the URL as stated still names the host of those file systems whose paths leave it out.
        whole = uri.rstrip("/")
        head = whole.removesuffix(path) if not is_local(uri) and whole.endswith(path) else None
        return [
            _found(system, str(name), entry, head=head)
            for name, entry in sorted(entries.items())
            if entry["type"] != "directory" and not _unfinished(str(name), base)
        ]


def _found(system: Any, name: str, entry: Mapping[str, Any], *, head: str | None) -> Found:
    marker = _marker(entry) or _marker(system.info(name))
    if head is not None:
        uri = f"{head}{name}"
    else:
        uri = name if "file" in system.protocol else str(system.unstrip_protocol(name))
    if not marker:
        raise UsageError(f"{shown(uri)}: its server states neither etag nor time; deliver it with `ratchet ingest`")
    size = entry.get("size")
    return Found(uri, None if size is None else int(size), marker)


def _marker(entry: Mapping[str, Any]) -> str:
    for name in _TAGS:
        if entry.get(name):
            said = entry[name]
            return (said.hex() if isinstance(said, bytes | bytearray) else str(said)).removeprefix("W/").strip('"')
    for name in _TIMES:
        if entry.get(name) is not None:
            time = entry[name].isoformat() if isinstance(entry[name], datetime) else str(entry[name])
            return hashlib.sha256(f"{time} {entry.get('size')}".encode()).hexdigest()[:32]
    return ""


def _unfinished(name: str, base: str) -> bool:
    """Whether a name below `base` (Spark's `_temporary/`, an editor's `.swp`) is not yet, or never, a delivery."""
    parts = name.removeprefix(base).strip("/").split("/")
    return name.endswith((".part", "/")) or any(part.startswith((".", "_")) for part in parts)


def _system(uri: str, options: Mapping[str, str]) -> tuple[Any, str]:
    """The file system of a URL and the path in it."""
    from fsspec.core import url_to_fs
    from fsspec.implementations.local import LocalFileSystem

    if is_local(uri):  # by its path: in a URL "::" and "#" have meanings of their own
        return LocalFileSystem(), str(local_path(uri))
    if uri.startswith("kafka://"):
        raise UsageError(f"{shown(uri)}: a topic is not a file but is polled; write it as [sources.NAME] uri")
    return cast(tuple[Any, str], url_to_fs(uri, **_arguments(options)))


def _arguments(options: Mapping[str, str]) -> dict[str, Any]:
    """Options as fsspec takes them: `a.b` is entry b of the mapping a, `true` and `false` are truth values."""
    arguments: dict[str, Any] = {}
    for option, value in options.items():
        *outer, last = option.split(".")
        inner = arguments
        for name in outer:
            inner = inner.setdefault(name, {})
        inner[last] = {"true": True, "false": False}.get(value.lower(), int(value) if last == "port" else value)
    return arguments


def _is_http(uri: str) -> bool:
    return uri.startswith(("http://", "https://"))


@contextmanager
def _opened_here(uri: str) -> Iterator[BinaryIO]:
    path = local_path(uri)
    name = printable(str(path))
    try:
        file = open(path, "rb", opener=_without_waiting)  # noqa: SIM115 -- a Path takes no opener
    except IsADirectoryError:
        raise UsageError(f"{name}: is a folder; name its files") from None
    except FileNotFoundError:
        raise UsageError(f"{name}: no such file") from None
    except (OSError, ValueError) as error:
        raise UsageError(f"{name}: cannot be read: {printable(str(error))}; check the path") from error
    with file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            # Its head is looked at before the delivery begins: what a pipe gave then would be gone.
            raise UsageError(f"{name}: is a pipe or a device; write what it gives to a file, and name that")
        yield file


def _without_waiting(path: str, flags: int) -> int:
    """A pipe that nobody writes to would be waited for, with the home's lock held."""
    return os.open(path, flags | os.O_NONBLOCK)


def printable(name: str) -> str:
    """A file's name as it can be stored and printed: bytes in it that are not UTF-8 are written out."""
    return name.encode("utf-8", "backslashreplace").decode()


class _Told(io.RawIOBase):
    """A stream whose errors are ours."""

    def __init__(self, stream: Any, uri: str, options: Mapping[str, str]) -> None:
        self._stream, self._uri, self._options = stream, uri, options

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        with _told(self._uri, self._options):
            data = self._stream.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


@contextmanager
def _told(uri: str, options: Mapping[str, str]) -> Iterator[None]:
    """Whatever the file system raises, as ours: URL, cause and remedy, and no secret.

    The cause is not chained: its own text and the frames around it may hold the credentials.
    """
    name, protocol = shown(uri), uri.partition("://")[0].rpartition("::")[2]
    try:
        yield
    except RatchetError:
        raise
    except FileNotFoundError as error:
        # fsspec says so of whatever an HTTP server, or none, answers.
        cause = error.__cause__ if _is_http(uri) else None
        if cause is not None and getattr(cause, "status", 404 if isinstance(cause, FileNotFoundError) else 0) != 404:
            raise _unreachable(cause, uri, options) from None
        raise UsageError(f"{name}: no such object; check the name") from None
    except IsADirectoryError:
        raise UsageError(f"{name}: is a folder; name its objects, or poll it as [sources.NAME] uri") from None
    except ImportError as error:
        package = _PACKAGES.get(protocol, "fsspec")
        said = scrubbed(str(error), uri, options)
        raise UsageError(f"{name}: needs a package that is missing ({said}); pip install {package}") from None
    except (TypeError, ValueError) as error:
        said = scrubbed(str(error), uri, options)
        if "rotocol not known" in said:
            from fsspec import available_protocols

            known = ", ".join(sorted({"s3", "gs", "abfs", "https", "memory", "file"} & set(available_protocols())))
            raise UsageError(f"{name}: unknown protocol {protocol!r}; known are {known} and fsspec's others") from None
        raise UsageError(f"{name}: URL or options not understood ({said}); mend them") from None
    except Exception as error:
        raise _unreachable(error, uri, options) from None


def _unreachable(error: BaseException, uri: str, options: Mapping[str, str]) -> DependencyFailed:
    said = scrubbed(f"{type(error).__name__}: {error}", uri, options)
    if isinstance(error, PermissionError) or getattr(error, "status", 0) in (401, 403):
        return DependencyFailed(
            f"{shown(uri)}: access refused ({said}); check the source's options (key, secret, token) and their rights"
        )
    return DependencyFailed(
        f"{shown(uri)}: cannot be reached ({said}); check network, endpoint and credentials, then repeat"
    )
