"""One answer: assignment, history, candidates, policy, and the exposures that record it."""

import hashlib
import hmac
import json
import logging
import time
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from uuid import uuid4

import numpy as np

from relations.errors import DependencyFailed
from serving.assignment import NO_CHAMPION, NO_TRIAL, Assignment, assign
from serving.attributes import NOTHING_TOLD, Told
from serving.bots import RATE_RULE, RateRule
from serving.engine import best_rows
from serving.histories import Past, nobody
from serving.messages import RecommendRequest
from serving.policy import Slot, epsilon_greedy
from serving.problems import Refused
from serving.snapshots import Loaded, Snapshot, Watcher
from serving.times import format_time
from serving.tokens import Tokens
from stores.landing_log import LandingLog
from stores.pseudonyms import Keys
from stores.settings import PolicySettings
from stores.user_state import UserState

POLICY = "epsilon-greedy"
POPULARITY = "popularity"
"""Stands as the digest where no model served; such a digest never names a bundle."""
# json.dumps with options makes an encoder a call.
_json = json.JSONEncoder(separators=(",", ":")).encode
_LOG = logging.getLogger(__name__)


class NothingToServe(DependencyFailed):
    """No champion and no popularity list: a home without events."""


@dataclass(frozen=True)
class Candidates:
    """What may be shown, best first, and who chose it."""

    items: Sequence[str]
    scores: Sequence[float]
    version: int
    digest: str
    served_by: str
    policy: str
    set_hash: str


class Recommender:
    """Answers requests. Not for several threads at once."""

    def __init__(
        self,
        *,
        keys: Keys,
        tokens: Tokens,
        policy: PolicySettings,
        watcher: Watcher,
        user_state: UserState,
        log: LandingLog,
        repeatable_ids: bool = False,
    ) -> None:
        """`repeatable_ids`: request ids follow from user and time, so that a simulation repeats itself."""
        self.keys = keys
        """Replaced whole when a key was rotated."""
        self._tokens = tokens
        self._policy = policy
        self._watcher = watcher
        self._user_state = user_state
        self._log = log
        self._bots = RateRule()
        self._repeats: OrderedDict[tuple[str, int], int] | None = OrderedDict() if repeatable_ids else None

    def answer(self, request: RecommendRequest, *, now_us: int, started: float) -> bytes:
        """The answer's JSON, after its exposures are written. `started`: `time.perf_counter()` when the request came.

        Raises ValueError for a bad time in the request's history, Refused for an attribute that no network knows,
        NothingToServe, and DependencyFailed where the
        exposures cannot be written: what is not logged is not shown.
        """
        snapshot = self._watcher.current  # once: all of this answer is of one snapshot
        if request.attributes:
            self._check(request.attributes)
        names = self.keys.history(request.user_id)
        user = names[0]
        bot = self._bots.broken_by(user, now_us=now_us)
        assignment = _assignment(snapshot, user)
        history, error = self._history(request, names)
        excluded = set(request.exclude)
        if self._policy.exclude_seen:
            excluded.update(past.item_id for past in history)
        candidates, error = self._candidates(snapshot, assignment, history, excluded, error, now_us, request.attributes)
        request_id = self._request_id(user, now_us, candidates.digest)
        slots = epsilon_greedy(
            candidates=len(candidates.items),
            k=request.k,
            exploration=self._policy.exploration,
            request_id=request_id,
        )
        epoch = snapshot.state.champion.epoch if snapshot.state.champion else 0
        assigned = _assigned_digest(snapshot, assignment)
        fallback = candidates.digest != assigned
        common = {
            "request_id": request_id,
            "user": user,
            "propensity_kind": "exact",
            "policy": candidates.policy,
            "surface": request.surface,
            "trial": assignment.trial,
            "variant": assignment.variant,
            "allocation": assignment.allocation,
            "assignment_reason": "fallback" if fallback else assignment.reason,
            "champion_epoch": epoch,
            "model_version": candidates.version,
            "digest": candidates.digest,
            "served_by": candidates.served_by,
            "candidate_set_hash": candidates.set_hash,
            "is_shadow": False,
            "is_bot": bot,
            "bot_rules": RATE_RULE if bot else None,
            "latency_ms": round((time.perf_counter() - started) * 1e3, 3),
            "error": error or (f"{assigned[:12]}: not loaded" if fallback else None),
            "shown_time": format_time(now_us),
            "context": None if request.context is None else json.dumps(request.context),
        }
        if slots:
            self._log.append(list(_exposure_lines(common, candidates, slots)))
        shown = [
            {
                "item_id": (item := candidates.items[slot.candidate]),
                "score": candidates.scores[slot.candidate],
                "position": position,
                "propensity": slot.propensity,
                "token": self._tokens.make(
                    exposure_id=f"{request_id}:{position}",
                    shown_us=now_us,
                    digest=candidates.digest,
                    user=user,
                    item_id=item,
                ),
            }
            for position, slot in enumerate(slots, start=1)
        ]
        model = {
            "version": candidates.version,
            "digest": candidates.digest,
            "arm": assignment.variant,
            "trial": assignment.trial,
        }
        return _json({"request_id": request_id, "items": shown, "model": model}).encode()

    def _check(self, attributes: Told) -> None:
        known = self._watcher.attributes
        unknown = sorted(set(attributes) - known) if known else []  # without a model, telling is no mistake
        if unknown:
            raise Refused(
                422,
                f"attributes: {unknown[0]!r} is not what the model was trained on; known: {', '.join(sorted(known))}",
            )

    def _history(self, request: RecommendRequest, names: Sequence[str]) -> tuple[list[Past], str | None]:
        """Of the user with these pseudonyms, the one in force first."""
        stated = request.history()
        if stated is not None:
            return stated, None
        try:
            # Under the former name too: a rotation changes the key first, and this user's state some moments later.
            formerly = names[1] if len(names) > 1 else None
            past = self._user_state.newest(names[0], self._user_state.keep, formerly=formerly)
        except DependencyFailed as error:  # a lost cache costs quality, never the answer
            _LOG.warning("%s", error)
            return [], str(error)
        return [Past(event.item_id, event.behaviour, event.event_time_us) for event in past], None

    def _candidates(
        self,
        snapshot: Snapshot,
        assignment: Assignment,
        history: list[Past],
        excluded: set[str],
        error: str | None,
        now_us: int,
        attributes: Told,
    ) -> tuple[Candidates, str | None]:
        """From the assigned model, else from the champion, else from popularity; with what went wrong, if anything."""
        tried = [snapshot.champion]
        if assignment.variant == "challenger":
            tried.insert(0, snapshot.challenger)
        for loaded in tried:
            if loaded is None:
                continue
            try:
                return self._from_model(loaded, history, excluded, now_us, attributes), error
            except Exception as failure:  # whatever the runtime raises: the user gets an answer, the log the reason
                error = f"{loaded.digest[:12]}: {failure}"
                _LOG.exception("model %d failed on a request", loaded.version)
        if not snapshot.popular:
            if not snapshot.answers:
                raise NothingToServe(
                    "no champion and no popularity list yet; ingest events first: `ratchet ingest FILE`"
                )
            return self._from_list((), set()), error
        return self._from_list(snapshot.popular, excluded), error

    def _from_model(
        self, loaded: Loaded, history: list[Past], excluded: set[str], now_us: int, attributes: Told
    ) -> Candidates:
        engine, n = loaded.engine, self._policy.candidates
        rows_excluded = {row for item in excluded if (row := engine.rows.get(item)) is not None}
        asked = engine.codes(history, now_us=now_us, attributes=attributes)
        if not asked.items_L and self._policy.newcomers == "model":
            asked = nobody(engine.attributes.row(user=attributes, context=NOTHING_TOLD))
        if asked.items_L:
            scores_V = engine.scores(asked)
            rows = best_rows(scores_V, n=n, excluded=rows_excluded)
            scores, policy = scores_V[rows].tolist(), POLICY
        else:
            # The scores only say the order.
            window = loaded.cold_rows[: n + len(rows_excluded)]
            rows = window[~np.isin(window, list(rows_excluded))][:n] if rows_excluded else window[:n]
            scores, policy = _rank_scores(len(rows)), f"{POLICY}/{POPULARITY}"
        return Candidates(
            items=[engine.items[row] for row in rows.tolist()],  # plain ints: indexing by NumPy's is 5× slower
            scores=scores,
            version=loaded.version,
            digest=loaded.digest,
            served_by=f"onnxruntime/{engine.provider}",
            policy=policy,
            set_hash=_set_hash(loaded.digest, np.sort(rows).astype("<i8").tobytes()),
        )

    def _from_list(self, popular: Sequence[str], excluded: set[str]) -> Candidates:
        n = self._policy.candidates
        items = [item for item in popular[: n + len(excluded)] if item not in excluded][:n]
        return Candidates(
            items=items,
            scores=_rank_scores(len(items)),
            version=0,
            digest=POPULARITY,
            served_by=POPULARITY,
            policy=f"{POLICY}/{POPULARITY}",
            set_hash=_set_hash(POPULARITY, "\x1f".join(sorted(items)).encode()),
        )

    def _request_id(self, user: str, now_us: int, digest: str) -> str:
        if self._repeats is None:
            return uuid4().hex
        number = self._repeats.pop((user, now_us), 0) + 1
        self._repeats[user, now_us] = number
        if len(self._repeats) > 100_000:
            self._repeats.popitem(last=False)
        said = f"request {user} {now_us} {number} {digest}".encode()
        return hmac.digest(self.keys.token, said, "sha256").hex()[:32]


def _assignment(snapshot: Snapshot, user: str) -> Assignment:
    state = snapshot.state
    if state.champion is None:
        return NO_CHAMPION
    if state.trial is None:
        return NO_TRIAL
    return assign(user, trial=state.trial.id, salt=state.trial.salt, allocation=state.trial.allocation)


def _assigned_digest(snapshot: Snapshot, assignment: Assignment) -> str:
    state = snapshot.state
    if assignment.variant == "challenger" and state.trial is not None:
        return state.trial.challenger_digest
    return snapshot.champion_digest or POPULARITY


def _exposure_lines(common: Mapping[str, object], candidates: Candidates, slots: list[Slot]) -> Iterator[bytes]:
    """One JSON line a slot. What all slots share is rendered once; it is nine tenths of the work."""
    shared = _json(common)[:-1]
    for position, slot in enumerate(slots, start=1):
        own = {
            "exposure_id": f"{common['request_id']}:{position}",
            "item_id": candidates.items[slot.candidate],
            "position": position,
            "propensity": slot.propensity,
            "score": candidates.scores[slot.candidate],
            "explored": slot.explored,
        }
        yield f"{shared},{_json(own)[1:]}\n".encode()


def _rank_scores(n: int) -> list[float]:
    return [1.0 / rank for rank in range(1, n + 1)]


def _set_hash(digest: str, candidates: bytes) -> str:
    return hashlib.blake2b(candidates, digest_size=8, key=digest.encode()).hexdigest()
