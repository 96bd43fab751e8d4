"""New items between releases: a side index's rows, laid beside the networks' own as `side.json` changes."""

import logging
from collections.abc import Mapping
from pathlib import Path

from relations.errors import DataRejected, RatchetError
from serving.networks.engine import Engine
from stores.serving_records import ServingState
from stores.side_index import InForce, SideIndex, read_in_force, read_side_index
from stores.stamps import Stamp, stamp_of

_LOG = logging.getLogger(__name__)


class SideWatch:
    """Which side indexes serve, as their file changes under a running server. For one thread at a time."""

    def __init__(self, *, in_force_file: Path, folder: Path, trusted: tuple[str, ...] = ()) -> None:
        """`trusted`: public keys in hex; where there are any, one of them must have signed an index."""
        self._file = in_force_file
        self._folder = folder
        self._trusted = trusted
        self._stamp: Stamp | None = None
        self._in_force: InForce | None = None
        self._read: dict[str, SideIndex] = {}
        self._broken: dict[str, str] = {}  # digest → why; until `side.json` names another
        self._serving: Mapping[str, str] = {}
        self._beside: dict[str, tuple[Engine, str, Engine]] = {}  # digest → engine, side index, and both together

    def look(self, state: ServingState, problems: list[str]) -> None:
        """Follow the file, and settle which indexes serve until the next look. What cannot be used is a problem.

        While a trial is open all its arms have theirs or none has: else it would compare who knows of more items.
        """
        self._follow(problems)
        indexes = {} if self._in_force is None else self._in_force.indexes
        arms = [] if state.champion is None else [state.champion.digest]
        if state.trial is not None:
            arms += [each.digest for each in state.trial.challengers if each.name not in state.trial.out]
        for digest in arms:
            self._try(indexes.get(digest, ""))
        usable = {base: digest for base, digest in indexes.items() if digest not in self._broken}
        self._serving = {} if state.trial is not None and not usable.keys() >= set(arms) else usable
        problems.extend(why for digest, why in self._broken.items() if digest in indexes.values())
        self._beside = {key: held for key, held in self._beside.items() if held[1] in self._serving.values()}
        self._read = {digest: index for digest, index in self._read.items() if digest in indexes.values()}

    def beside(self, engine: Engine, *, digest: str, base_digest: str) -> Engine:
        """`engine`, of the version `base_digest` and answering as `digest`, with the new items beside its own."""
        side = self._serving.get(base_digest, "")
        if not side:
            return engine
        held = self._beside.get(digest)
        if held is not None and held[0] is engine and held[1] == side:
            return held[2]
        self._try(side)
        if side not in self._read:
            return engine
        try:
            both = engine.with_side(self._read[side])
        except DataRejected as error:
            self._broken[side] = f"side index {side[:12]}: {error}"
            return engine
        _LOG.info("%d new items beside %s, side index %s", len(self._read[side].items), digest[:12], side[:12])
        self._beside[digest] = (engine, side, both)
        return both

    def _follow(self, problems: list[str]) -> None:
        try:
            stamp = stamp_of(self._file)
            if stamp != self._stamp:
                self._in_force = read_in_force(self._file)
                self._stamp = stamp
                self._broken = {}
        except FileNotFoundError:
            self._in_force, self._stamp = None, None
        except (RatchetError, OSError) as error:
            problems.append(f"new items: {error}")

    def _try(self, digest: str) -> None:
        if digest and digest not in self._read and digest not in self._broken:
            try:
                self._read[digest] = read_side_index(self._folder, digest, trusted=self._trusted)
            except RatchetError as error:
                self._broken[digest] = f"side index {digest[:12]}: {error}"
