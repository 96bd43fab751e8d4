"""What a demo answers: the rows, the trials, the weeks of a replay, and who is champion at its end."""

from dataclasses import dataclass, field
from typing import Any

from stores.home import Home
from stores.ledger import Ledger

ARMS = ("stale", "incremental", "full", "popularity")


@dataclass
class Account:
    """Filled while the demo runs; `as_json` is the object of `ratchet demo --json`."""

    seed: int
    trials: list[dict[str, Any]] = field(default_factory=list)
    weeks: list[dict[str, Any]] = field(default_factory=list)
    """Of a replay: `week`, its rows `n`, and the NDCG@10 of each of ARMS."""
    parity: list[dict[str, float]] = field(default_factory=list)
    events: dict[str, int] = field(default_factory=dict)
    champion: dict[str, Any] | None = None
    rolled_back: bool = False
    requests: int = 0
    failed: int = 0
    seconds: float = 0.0

    def add_parity(self, released: dict[str, Any]) -> None:
        self.parity.append({name: released["parity"][name] for name in ("max_abs_diff", "top10_agreement")})

    def add_trial(self, evidence: dict[str, Any], *, kind: str, true_lift: float | None) -> None:
        self.trials.append(
            {
                "id": evidence["trial_id"],
                "kind": kind,
                "decision": evidence["verdict"],
                "lift": evidence["lift"],
                "interval": evidence["lift_interval"],
                "true_lift": true_lift,
                "matured_users": sum(evidence["matured"]),
                "looks": evidence["look"],
            }
        )

    def close(self, home: Home, ledger: Ledger) -> None:
        """Read what stands in the home at the end."""
        from stores.lake import Lake

        self.events = Lake(home.lake).totals()
        champion = ledger.champion()
        if champion is not None:
            self.champion = {"version": champion.version, "digest": champion.digest, "epoch": champion.epoch}

    def as_json(self) -> dict[str, Any]:
        return {
            "events": self.events,
            "trials": self.trials,
            **({"weeks": self.weeks} if self.weeks else {}),
            "champion": self.champion,
            "parity": {
                "max_abs_diff": max(each["max_abs_diff"] for each in self.parity),
                "top10_agreement": min(each["top10_agreement"] for each in self.parity),
            },
            "rolled_back": self.rolled_back,
            "requests": self.requests,
            "failed_requests": self.failed,
            "seed": self.seed,
            "seconds": round(self.seconds, 1),
        }

    def lines(self) -> tuple[str, ...]:
        """The weeks as a table with their row-weighted mean, and the account of the rows."""
        found = [""]
        if self.weeks:
            found += ["NDCG@10 on each week before it is learnt", _row("week", "n", ARMS)]
            found += [_row(week["week"], week["n"], [f"{week[arm]:.4f}" for arm in ARMS]) for week in self.weeks]
            rows = sum(week["n"] for week in self.weeks)
            means = [sum(week[arm] * week["n"] for week in self.weeks) / rows for arm in ARMS]
            found += [_row("all", rows, [f"{mean:.4f}" for mean in means]), ""]
        events = self.events
        found.append(
            f"{events['delivered']:,} rows delivered = {events['accepted']:,} accepted + "
            f"{events['quarantined']:,} quarantined + {events['duplicate']:,} duplicate + {events['late']:,} late"
        )
        found.append(f"{self.requests:,} requests answered, {self.failed} failed · {self.seconds:.0f} s")
        return tuple(found)


def _row(first: object, count: object, rest: "list[str] | tuple[str, ...]") -> str:
    return f"{first!s:>4} {count!s:>6}" + "".join(f"{cell:>13}" for cell in rest)
