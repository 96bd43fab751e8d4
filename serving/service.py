"""All that a running recommend API holds, and what it does between requests."""

import asyncio
import logging
import time
from functools import partial
from typing import Any

from relations.errors import DependencyFailed, RatchetError
from serving.choosing.assignment import in_play
from serving.choosing.cache import CandidateCache
from serving.choosing.candidates import Candidates, Chooser
from serving.choosing.exposure_log import ExposureLog
from serving.choosing.feedback import FeedbackDesk
from serving.choosing.kill_switch import KillSwitch
from serving.choosing.offers import OfferWatch
from serving.choosing.recommendation import Recommender
from serving.choosing.shadow import Shadow
from serving.choosing.snapshots import LedgerView, Watcher
from serving.choosing.tokens import Tokens
from serving.networks.batching import Batcher
from serving.networks.side import SideWatch
from serving.web.admission import Headroom
from serving.web.metrics import Metrics
from serving.web.watching import Watch
from stores.api_keys import KeyRing
from stores.clock import home_now
from stores.home import Home
from stores.landing_log import LandingLog
from stores.ledger_records import TrialMode
from stores.pseudonyms import Keys, newest_version
from stores.settings import Settings
from stores.user_states import open_user_state

_LOG = logging.getLogger(__name__)


class Service:
    """All that a running app holds. Raises DependencyFailed where the home's files cannot be opened."""

    def __init__(self, home: Home, settings: Settings, *, ledger: LedgerView) -> None:
        serving = settings.serving
        self._key_folder = home.keys
        self.metrics = Metrics()
        self.ring = KeyRing(home.api_keys)
        keys = Keys.load(home.keys)
        tokens = Tokens(keys.token, days=serving.token_days)
        self.user_state = open_user_state(home, settings)
        exposures, self.feedback_log = (
            LandingLog(home.landing / kind, flush_seconds=serving.flush_seconds, flush_rows=serving.flush_rows)
            for kind in ("exposures", "feedback")
        )
        self.exposure_log = ExposureLog(
            exposures, most_rows=serving.exposures_waiting, fsync_seconds=serving.fsync_seconds
        )
        self._fsync_seconds = serving.fsync_seconds
        self._offers = OfferWatch(catalogue_file=home.catalogue, blocklist_file=home.blocklist)
        self.watcher = Watcher(
            ledger,
            releases=home.releases,
            popularity_list=home.popularity,
            offers=self._offers,
            filters_mb=serving.filters_mb,
            sides=SideWatch(in_force_file=home.side_in_force, folder=home.side_indexes, trusted=serving.trusted_keys),
            trusted=serving.trusted_keys,
            device=serving.device,
            threads=serving.threads,
            variant=serving.variant,
            retry_seconds=20 * serving.poll_seconds,
            now=partial(home_now, home, settings),
        )
        self.simulated_time = settings.home.clock == "request"
        self.now = partial(home_now, home, settings)
        self.batcher = Batcher(
            most=serving.batch,
            budget_seconds=serving.queue_ms / 1e3,
            timeout_seconds=serving.timeout_ms / 1e3,
            workers=serving.workers,
            observe=self.metrics.batch,
        )
        self.headroom = Headroom(self.batcher, budget_seconds=serving.queue_ms / 1e3)
        self.kills = KillSwitch(home.kill_switch)
        self.cache = CandidateCache[Candidates](seconds=serving.cache_seconds, entries=serving.cache_entries)
        # Threads of its own and no cache: what is in the shadow takes nothing from the answers.
        self._shadow_batcher = Batcher(
            most=1, budget_seconds=serving.timeout_ms / 1e3, timeout_seconds=serving.timeout_ms / 1e3
        )
        self.shadow = Shadow(
            chooser=Chooser(
                settings.policy,
                self._shadow_batcher,
                cache=CandidateCache[Candidates](seconds=0, entries=1),
                metrics=self.metrics,
            ),
            log=self.exposure_log,
            metrics=self.metrics,
            busy=lambda: self.batcher.wait_seconds > 0,
            stopped=self.kills.stops,
            most=serving.shadow_waiting,
            most_rows=serving.exposures_waiting // 10,
        )
        self.recommender = Recommender(
            keys=keys,
            tokens=tokens,
            policy=settings.policy,
            watcher=self.watcher,
            chooser=Chooser(settings.policy, self.batcher, cache=self.cache, metrics=self.metrics),
            user_state=self.user_state,
            log=self.exposure_log,
            metrics=self.metrics,
            kills=self.kills,
            shadow=self.shadow,
            repeatable_ids=self.simulated_time,
        )
        self.desk = FeedbackDesk(
            keys=keys,
            tokens=tokens,
            user_state=self.user_state,
            log=self.feedback_log,
            max_skew_minutes=settings.lake.max_skew_minutes,
        )
        watch = Watch(
            watcher=self.watcher,
            batcher=self.batcher,
            headroom=self.headroom,
            exposures=self.exposure_log,
            feedback=self.feedback_log,
            facts_file=home.facts,
            stopped=self.kills.stops,
            now=self.now,
        )
        self.metrics.observe(watch.standing)

    async def watch(self, seconds: float) -> None:
        while True:
            await asyncio.sleep(seconds)
            try:
                await asyncio.to_thread(self.watcher.refresh)
            except Exception:  # the next look may succeed; without this the watch would end for good
                _LOG.exception("looking at the ledger failed")
            try:
                await asyncio.to_thread(self.ring.refresh)
                await self._follow_keys()
            except RatchetError as error:
                _LOG.warning("%s", error)

    async def watch_blocklist(self, seconds: float) -> None:
        """A block waits neither for a ledger that hangs nor for a model that loads."""
        while True:
            await asyncio.sleep(seconds)
            try:
                await asyncio.to_thread(self._offers.obey)
            except Exception:  # the next look may succeed; without this the watch would end for good
                _LOG.exception("looking at the blocklist failed")

    async def _follow_keys(self) -> None:
        """Take a rotated key into use, and give the users' state of older keys their new pseudonyms.

        The second at every look: a request that had begun under the old key may have written since.
        """
        keys = self.desk.keys
        if await asyncio.to_thread(newest_version, self._key_folder) > keys.version:
            keys = await asyncio.to_thread(Keys.load, self._key_folder)
            self.desk.keys = self.recommender.keys = keys  # between two requests: none sees both
            _LOG.info("pseudonyms are of key version %d from now on", keys.version)
        if keys.version > 1:
            await asyncio.to_thread(self.user_state.rename, keys.prefix, keys.lift_all)

    async def hand_over(self, seconds: float) -> None:
        """The feedback log's; the exposure log's thread does it itself."""
        synced = time.monotonic()
        while True:
            await asyncio.sleep(seconds)
            try:
                if time.monotonic() - synced >= self._fsync_seconds:
                    await asyncio.to_thread(self.feedback_log.sync)
                    synced = time.monotonic()
                self.feedback_log.hand_over_if_due()
            except DependencyFailed as error:
                _LOG.warning("%s", error)

    async def watch_kills(self, seconds: float) -> None:
        """Apart from the ledger, which may take its time to say that it is out of reach."""
        while True:
            await asyncio.sleep(seconds)
            self.kills.look()

    def close(self) -> None:
        self.shadow.close()
        self._shadow_batcher.close()
        self.batcher.close()
        self.exposure_log.close()
        try:
            self.feedback_log.hand_over()
            self.feedback_log.sync()
        except DependencyFailed as error:  # the rows stay in their .part file for the next start
            _LOG.warning("%s", error)

    def state(self) -> dict[str, Any]:
        """What /readyz answers."""
        snapshot = self.watcher.current
        champion, trial, delta, bake = snapshot.champion, snapshot.state.trial, snapshot.delta, snapshot.state.bake
        side, catalogue = champion and champion.engine.side, snapshot.offer.catalogue
        return {
            "ready": snapshot.answers,
            "champion": champion and {"version": champion.version, "digest": champion.digest, "epoch": champion.epoch},
            "delta": delta
            and {
                "sequence": delta.sequence,
                "base_digest": delta.base_digest,
                "standing": delta.standing,
                "expires": delta.expires.isoformat(),
            },
            "trial": trial
            and {
                "id": trial.id,
                "champion_epoch": trial.champion_epoch,
                "mode": TrialMode.KILLED if self.kills.stops(trial.id) else trial.mode,
                "allocation": 0.0 if self.kills.stops(trial.id) else trial.allocation,
                "loaded": snapshot.challengers.keys() == {each.name for each in in_play(trial)} != set(),
                "challengers": {
                    each.name: {
                        "version": each.version,
                        "digest": each.digest,
                        "loaded": each.name in snapshot.challengers,
                        "out": each.name in trial.out,
                    }
                    for each in trial.challengers
                },
                "shadow": self.shadow.fates(trial.id),
            },
            "bake": bake
            and {
                "trial": bake.trial,
                "state": bake.state,
                "former_version": bake.version,
                "former_digest": bake.digest,
                "warm": snapshot.former is not None,
            },
            "loaded": self.watcher.engines.digests,
            "catalogue": None if catalogue is None else {"version": catalogue.version, "items": len(catalogue)},
            "blocked": len(snapshot.offer.blocked),
            "new_items": side and {"digest": side.digest, "items": len(side.items)},
            "pending_rows": self.exposure_log.pending
            + self.feedback_log.pending,  # written, not yet in the landing folder
            "problems": [*snapshot.problems, *filter(None, (self.kills.problem, self.user_state.problem))],
        }
