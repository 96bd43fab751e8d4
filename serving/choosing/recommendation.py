"""One answer: assignment, history, candidates, policy, and the exposures that record it."""

import asyncio
import hmac
import json
import time
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from uuid import uuid4

from serving.choosing.assignment import (
    CHAMPION,
    KILLED,
    NO_CHAMPION,
    NO_TRIAL,
    SHADOWED,
    Assignment,
    assign,
    shadowed_by,
)
from serving.choosing.bots import RATE_RULE, RateRule
from serving.choosing.candidates import POPULARITY, Candidates, Chooser, Wish, without_blocked
from serving.choosing.exposure_log import ExposureLog
from serving.choosing.exposures import encode, exposure_id, exposure_lines, shown_json
from serving.choosing.filters import check
from serving.choosing.kill_switch import KillSwitch
from serving.choosing.shadow import Shadow, ShadowRequest
from serving.choosing.slots import Shown, by_draft, by_policy
from serving.choosing.snapshots import Snapshot, Watcher
from serving.choosing.tokens import Tokens
from serving.networks.attributes import NOTHING_TOLD, Told
from serving.networks.histories import History
from serving.web.messages import RecommendRequest
from serving.web.metrics import Fallback, Metrics
from serving.web.problems import Refused
from serving.web.times import format_time
from stores.preferences import Preferences
from stores.pseudonyms import Keys
from stores.serving_settings import PolicySettings
from stores.user_states import UserState


class Recommender:
    """Answers requests. For one event loop: only finding candidates yields to other requests."""

    def __init__(
        self,
        *,
        keys: Keys,
        tokens: Tokens,
        policy: PolicySettings,
        watcher: Watcher,
        chooser: Chooser,
        user_state: UserState,
        log: ExposureLog,
        metrics: Metrics,
        kills: KillSwitch,
        shadow: Shadow,
        repeatable_ids: bool = False,
    ) -> None:
        """`repeatable_ids`: request ids follow from user and time, so that a simulation repeats itself."""
        self.keys = keys
        """Replaced whole when a key was rotated."""
        self._tokens = tokens
        self._policy = policy
        self._watcher = watcher
        self._chooser = chooser
        self._user_state = user_state
        self._log = log
        self._metrics = metrics
        self._kills = kills
        self._shadow = shadow
        self._bots = RateRule()
        self._repeats: OrderedDict[tuple[str, int], int] | None = OrderedDict() if repeatable_ids else None

    async def answer(self, request: RecommendRequest, *, now_us: int, started: float) -> bytes:
        """The answer's JSON, after its exposures are logged. `started`: `time.perf_counter()` when the request came.

        Raises ValueError for a bad time in the request's history, Refused for an attribute that no network knows,
        NothingToServe, Overloaded, and DependencyFailed where the exposures cannot be logged: what is not logged is
        not shown.
        """
        snapshot = self._watcher.current  # once: all of this answer is of one snapshot
        if request.attributes:
            self._check(request.attributes)
        wanted = check(request.filters, catalogue=snapshot.offer.catalogue)
        keys = self.keys
        names = keys.history(request.user_id)
        user = names[0]
        bot = self._bots.broken_by(user, now_us=now_us)
        assignment = _assignment(snapshot, user, holdback=self._policy.holdback, kills=self._kills)
        history, attributes, preferences, error = await self._known(request, names)
        excluded = preferences.hidden_items.union(request.exclude)
        wanted = wanted.also_without(preferences.hidden_categories, catalogue=snapshot.offer.catalogue)
        wish = Wish(history, excluded, now_us, attributes, wanted)
        candidates, rival = await self._candidates(snapshot, assignment, wish)
        error = candidates.error or error
        request_id = self._request_id(user, now_us, candidates.digest)
        if rival is None:
            exploration = self._policy.exploration
            slots = by_policy(candidates, k=request.k, exploration=exploration, request_id=request_id)
        else:
            slots = by_draft(candidates, rival, k=request.k, request_id=request_id)
        epoch = snapshot.state.champion.epoch if snapshot.state.champion else 0
        assigned = _assigned_digest(snapshot, assignment)
        fallback = (rival or candidates).digest != assigned
        if fallback:
            instead = Fallback.FORMER if assignment.variant == CHAMPION else Fallback.CHAMPION
            self._metrics.fallback(Fallback.POPULARITY if candidates.digest == POPULARITY else instead)
        common = {
            "request_id": request_id,
            "user": user,
            "propensity_kind": "exact",
            "surface": request.surface,
            "trial": assignment.trial,
            "variant": assignment.variant,
            "allocation": assignment.allocation,
            "assignment_reason": assignment.said_reason(fallback=fallback),
            "champion_epoch": epoch,
            "is_shadow": False,
            "is_bot": bot,
            "bot_rules": RATE_RULE if bot else None,
            "latency_ms": round((time.perf_counter() - started) * 1e3, 3),
            "error": error or (f"{assigned[:12]}: not loaded" if fallback else None),
            "shown_time": format_time(now_us),
            "context": None if request.context is None else json.dumps(request.context),
        }
        if slots:
            self._log.append(list(exposure_lines(common, slots)))
        if assignment is SHADOWED and not bot:
            self._offer_to_shadow(snapshot, wish, request.k, common)
        shown = self._signed(slots, request_id=request_id, user=user, now_us=now_us)
        failed = common["error"] is not None
        self._metrics.answer(arm=assignment.variant, seconds=time.perf_counter() - started, failed=failed)
        model = {
            "version": candidates.version,
            "digest": candidates.digest,
            "arm": assignment.variant,
            "trial": assignment.trial,
        }
        return f'{{"request_id":"{request_id}","items":[{",".join(shown)}],"model":{encode(model)}}}'.encode()

    def _signed(self, slots: Sequence[Shown], *, request_id: str, user: str, now_us: int) -> Iterator[str]:
        """The answer's items, as JSON, each with the proof that it was shown."""
        for position, slot in enumerate(slots, start=1):
            token = self._tokens.make(
                exposure_id=exposure_id(request_id, position),
                shown_us=now_us,
                digest=slot.source.digest,
                user=user,
                item_id=slot.item,
            )
            yield f'{{{shown_json(slot, position=position)},"token":"{token}"}}'

    async def _candidates(
        self, snapshot: Snapshot, assignment: Assignment, wish: Wish
    ) -> tuple[Candidates, Candidates | None]:
        """Of the assigned model; for a drafted list the champion's, and the challenger's unless one of them failed."""
        rival = None
        if assignment.rival is not None and assignment.rival in snapshot.challengers:
            arms = (replace(assignment, variant=variant) for variant in (CHAMPION, assignment.rival))
            found, rival = await asyncio.gather(*(self._chooser.candidates(snapshot, arm, wish) for arm in arms))
            if (found.digest, rival.digest) != (snapshot.champion_digest, _assigned_digest(snapshot, assignment)):
                found, rival = replace(found, error=found.error or rival.error), None
        else:
            found = await self._chooser.candidates(snapshot, assignment, wish)
        blocked = self._watcher.blocked
        return without_blocked(found, blocked), rival and without_blocked(rival, blocked)

    def _offer_to_shadow(self, snapshot: Snapshot, wish: Wish, k: int, common: Mapping[str, object]) -> None:
        trial = snapshot.state.trial
        drawn = trial and shadowed_by(str(common["request_id"]), trial)
        if trial and drawn and (challenger := snapshot.challengers.get(drawn.name)):
            request = ShadowRequest(trial.id, drawn.name, challenger, wish, k, snapshot.offer.blocked, common)
            self._shadow.offer(request)

    def _check(self, attributes: Told) -> None:
        known = self._watcher.engines.attributes
        unknown = sorted(set(attributes) - known) if known else []  # without a model, telling is no mistake
        if unknown:
            raise Refused(
                422,
                f"attributes: {unknown[0]!r} is not what the model was trained on; known: {', '.join(sorted(known))}",
            )

    async def _known(
        self, request: RecommendRequest, names: Sequence[str]
    ) -> tuple[History, Told, Preferences, str | None]:
        """What may be used of the user with these pseudonyms, the one in force first; and why it is less than there is.

        Of one who turned personalisation off, nothing: the answer is a newcomer's, and may show what they have seen.
        """
        stated = request.history()
        # Under the former name too: a rotation changes the key first, and this user's state some moments later.
        remembered = await self._user_state.read(names[0], formerly=names[1] if len(names) > 1 else None)
        error = remembered.error
        if error is not None:  # a lost cache costs quality, never the answer
            self._metrics.user_state_errors.inc()
        preferences = remembered.preferences
        if not preferences.personalised:
            return History(), NOTHING_TOLD, preferences, error
        if stated is None:
            stated = History(remembered.item_ids, remembered.behaviours, remembered.times_us)
        return stated, request.attributes, preferences, error

    def _request_id(self, user: str, now_us: int, digest: str) -> str:
        if self._repeats is None:
            return uuid4().hex
        number = self._repeats.pop((user, now_us), 0) + 1
        self._repeats[user, now_us] = number
        if len(self._repeats) > 100_000:
            self._repeats.popitem(last=False)
        said = f"request {user} {now_us} {number} {digest}".encode()
        return hmac.digest(self.keys.token, said, "sha256").hex()[:32]


def _assignment(snapshot: Snapshot, user: str, *, holdback: float, kills: KillSwitch) -> Assignment:
    state = snapshot.state
    if state.champion is None:
        return NO_CHAMPION
    if state.trial is None:
        return NO_TRIAL
    if kills.stops(state.trial.id):
        return KILLED
    return assign(user, state.trial, holdback=holdback)


def _assigned_digest(snapshot: Snapshot, assignment: Assignment) -> str:
    """What the user's list is to be of; for a drafted one, the challenger's part of it."""
    arm = assignment.rival or assignment.variant
    challengers = snapshot.state.trial.challengers if snapshot.state.trial else ()
    named = next((each.digest for each in challengers if each.name == arm), None)
    return named or snapshot.champion_digest or POPULARITY
