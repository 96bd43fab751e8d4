"""`ratchet release`: who released what. A bundle is signed, and its signature verified, by its digest."""

import re
from pathlib import Path

import click

from cli.console import Context, Result, command
from relations.errors import DependencyFailed, UsageError
from stores.bundle import Bundle, open_bundle

_LEAST = 8
_DIGESTS = click.argument("digests", nargs=-1, required=True, metavar="DIGEST…")


@click.group("release")
def release() -> None:
    """Sign releases, and verify their signatures.

    DIGEST is of a release, an online delta or an index of new items, or its first eight or more digits.
    """


@command("keygen")
@click.option(
    "--out", type=click.Path(path_type=Path), required=True, help="Where the private key goes; kept from others."
)
def keygen(context: Context, *, out: Path) -> Result:
    """Make a key. The private half goes into a file, for [release] signing_key; the public one is printed."""
    from stores.signatures import key_id, make_key

    public = make_key(out)
    lines = (
        public,
        f"key {key_id(public)}: its private half is in {out}, and nowhere else",
        "servers trust it by `[serving] trusted_keys`, once what they serve is signed: `ratchet release sign`",
    )
    return Result({"public_key": public, "key_id": key_id(public), "file": str(out)}, lines)


@command("sign")
@_DIGESTS
@click.option(
    "--key", type=click.Path(path_type=Path), help="File with the private key; default: [release] signing_key."
)
def sign(context: Context, *, digests: tuple[str, ...], key: Path | None) -> Result:
    """Sign bundles that are there; a former signature is replaced."""
    from stores.signatures import sign as sign_bundle

    stated = context.settings.release.signing_key
    if key is None and not stated:
        raise UsageError("no key to sign with: name its file with --key, or as [release] signing_key")
    signed = {
        bundle.digest: sign_bundle(bundle, key or Path(stated))
        for bundle in [_found(context, each) for each in digests]
    }
    lines = tuple(f"{digest}: signed by the key {signer}" for digest, signer in signed.items())
    return Result({"signed": signed}, lines)


@command("verify")
@_DIGESTS
@click.option(
    "--trust", multiple=True, metavar="KEY", help="A public key; may be repeated; default: [serving] trusted_keys."
)
def verify(context: Context, *, digests: tuple[str, ...], trust: tuple[str, ...]) -> Result:
    """Whether bundles are whole and signed by a trusted key. Exit code 4 where one is not."""
    from stores.signatures import public_hex
    from stores.signatures import verify as verify_bundle

    try:
        trusted = [public_hex(key) for key in trust] or context.settings.serving.trusted_keys
    except ValueError as error:
        raise UsageError(f"--trust: {error}") from error
    if not trusted:
        raise UsageError("no key is trusted: name one with --trust, or as [serving] trusted_keys")
    signers = {
        bundle.digest: verify_bundle(bundle, trusted=trusted) for bundle in [_found(context, each) for each in digests]
    }
    lines = tuple(f"{digest}: whole, and signed by the key {signer}" for digest, signer in signers.items())
    return Result({"verified": signers}, lines)


def _found(context: Context, beginning: str) -> Bundle:
    """The bundle whose digest begins so, verified byte by byte."""
    if not re.fullmatch(rf"[0-9a-f]{{{_LEAST},64}}", beginning):
        raise UsageError(f"{beginning[:80]!r}: give a digest, or {_LEAST} or more of its first hex digits")
    home = context.home
    found = [folder for place in (home.releases, home.side_indexes) for folder in place.glob(f"{beginning}*")]
    if not found:
        raise DependencyFailed(f"{beginning}: no such bundle in {home.releases} or {home.side_indexes}")
    if len(found) > 1:
        raise UsageError(f"{beginning}: begins {len(found)} digests; give more of it")
    return open_bundle(found[0].parent, found[0].name)


for _command in (keygen, sign, verify):
    release.add_command(_command)
