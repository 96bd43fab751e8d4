"""The ledger's side of online learning: standing approvals, and the deltas recorded under them."""

from datetime import datetime

from stores.approval import check_named
from stores.ledger_database import Database
from stores.ledger_records import GATE, SURFACE
from stores.people import Role, check_may
from stores.standing import add_delta, end_standing, grant, live_standing, read_standings, serving_delta
from stores.standing_records import DeltaFacts, DeltaLimits, StandingRecord

ONLINE = "online"
"""Who records deltas where nobody is named."""


class StandingLedger:
    """Each method is one transaction, as in `Ledger`, which this is a part of."""

    _database: Database
    _enforce_roles: bool

    def standing(self, *, now: datetime, surface: str = SURFACE) -> StandingRecord | None:
        """The standing approval that allows deltas on the champion now, with those recorded under it."""
        with self._database.read() as tx:
            return live_standing(tx, surface, now=now)

    def standings(self, surface: str = SURFACE) -> tuple[StandingRecord, ...]:
        """All of them, oldest first."""
        with self._database.read() as tx:
            return read_standings(tx, surface)

    def allow_deltas(
        self,
        *,
        recipe: str,
        limits: DeltaLimits,
        expires: datetime,
        actor: str,
        reason: str,
        now: datetime,
        surface: str = SURFACE,
    ) -> StandingRecord:
        """A person's standing approval of deltas on the present champion; the same again is the same answer.

        Refuses while another is live, without a champion, and the approval of who submitted the champion's training.
        """
        check_named(actor, reason, what="standing approval")
        with self._database.write() as tx:
            check_may(tx, actor, Role.APPROVER, what="approve deltas", enforce=self._enforce_roles)
            return grant(
                tx,
                surface=surface,
                recipe=recipe,
                limits=limits,
                expires=expires,
                actor=actor,
                reason=reason,
                now=now,
            )

    def withdraw_deltas(self, *, actor: str, reason: str, now: datetime, surface: str = SURFACE) -> int | None:
        """Back to the last full bundle: end the standing approval. Returns its number, None where there is none."""
        check_named(actor, reason, what="withdrawal of deltas")
        with self._database.write() as tx:
            if actor != GATE:
                check_may(tx, actor, what="withdraw deltas", enforce=self._enforce_roles)
            return end_standing(tx, surface, actor=actor, reason=reason, now=now)

    def record_delta(
        self, facts: DeltaFacts, *, now: datetime, actor: str = ONLINE, surface: str = SURFACE
    ) -> StandingRecord:
        """Let a delta serve in the champion's place, under the live standing approval; returns that.

        Refuses without one, and a delta outside its limits, which the refusal names. The newest again changes nothing.
        """
        with self._database.write() as tx:
            return add_delta(tx, facts, surface=surface, actor=actor, now=now)

    def breach_delta(self, digest: str, *, reason: str, now: datetime, surface: str = SURFACE) -> bool:
        """A guardrail's no to the newest delta: its standing approval ends. False where another is the newest."""
        with self._database.write() as tx:
            newest = serving_delta(tx, surface)
            if newest is None or newest.digest != digest:
                return False
            why = f"delta {newest.sequence} ({digest}): {reason}"
            return end_standing(tx, surface, actor=GATE, reason=why, now=now) is not None
