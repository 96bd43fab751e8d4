"""How an arm's answers came: how many failed, how slow they were, and which bundle gave them.

Stages before the comparison and the watch after a promotion judge these against the champion's of the same kind. A
failure is an answer that the assigned model did not give, or gave with an error.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from scipy.special import betaincc, betaln

from relations.errors import UsageError

MIN_P99_REQUESTS = 200
"""Below this many requests the 99th percentile is the slowest answer or two, and says nothing."""


@dataclass(frozen=True)
class Served:
    """One arm's requests without bots. Latencies are milliseconds, None without a request.

    `digests`: the bundles that gave the answers that did not fail.
    """

    requests: int = 0
    failures: int = 0
    p50_ms: float | None = None
    p99_ms: float | None = None
    digests: tuple[str, ...] = ()

    @property
    def failing(self) -> float:
        """Share of requests that failed; 0 where there were none."""
        return self.failures / self.requests if self.requests else 0.0

    def as_json(self) -> dict[str, Any]:
        return {
            "requests": self.requests,
            "failures": self.failures,
            "p50_ms": self.p50_ms,
            "p99_ms": self.p99_ms,
            "digests": list(self.digests),
        }

    @staticmethod
    def from_json(stated: Mapping[str, Any]) -> "Served":
        return Served(**{**stated, "digests": tuple(stated.get("digests", ()))})


@dataclass(frozen=True)
class ServedLimits:
    """How much worse than the champion's an arm's answers may come.

    `failures`: how much larger the share that fails may be. `latency`: how many times the champion's p99 its own may
    be. `alpha`: probability of taking an arm within the first limit for one beyond it, however often one looks.
    """

    failures: float
    latency: float
    alpha: float = 0.01

    def __post_init__(self) -> None:
        if not 0 <= self.failures < 1:
            raise UsageError(f"failures = {self.failures}: a share in [0, 1)")
        if not self.latency > 0:
            raise UsageError(f"latency = {self.latency}: a factor above 0")
        if not 0 < self.alpha < 0.5:
            raise UsageError(f"alpha = {self.alpha}: must lie in (0, 0.5)")


def failure_evidence(failures: int, requests: int, *, allowed: float) -> float:
    """Log of the e-value against "a request fails with probability at most `allowed`"; may be watched at all times.

    The likelihood ratio against `allowed`, averaged over all larger probabilities p:
    ∫_a^1 p^k(1 − p)^{n−k} dp / ((1 − a)·a^k(1 − a)^{n−k}). Each ratio has an expectation of at most 1 a request where
    the true probability is at most a, so by Ville's inequality it exceeds 1/α at any time with probability at most α.
    Source: Ramdas, Grünwald, Vovk & Shafer, "Game-theoretic statistics and safe anytime-valid inference", 2023, §3
    (method of mixtures). Requests are taken as independent: a burst of failures raises the alarm sooner, as it should.

    Raises ValueError for counts that cannot be, or `allowed` outside [0, 1).
    """
    if not 0 <= failures <= requests:
        raise ValueError(f"{failures} failures of {requests} requests")
    if not 0 <= allowed < 1:
        raise ValueError(f"allowed = {allowed} is outside [0, 1)")
    if failures and not allowed:
        return math.inf  # what may never happen did
    k, rest = failures, requests - failures
    above = float(betaincc(k + 1, rest + 1, allowed))
    if above <= 0:
        return -math.inf
    null = k * (math.log(allowed) if k else 0.0) + rest * math.log1p(-allowed)
    return float(betaln(k + 1, rest + 1)) + math.log(above) - math.log1p(-allowed) - null


def too_many_failures(arm: Served, champion: Served, *, limits: ServedLimits) -> str:
    """Why the arm's failures are proven to be too many; empty while they are not. Valid at every look."""
    allowed = min(champion.failing + limits.failures, 1 - 1e-9)
    if failure_evidence(arm.failures, arm.requests, allowed=allowed) < math.log(1 / limits.alpha):
        return ""
    return (
        f"{arm.failures:,} of {arm.requests:,} answers failed ({arm.failing:.2%}), the champion's share is "
        f"{champion.failing:.2%} and {limits.failures:.2%} more is allowed"
    )


def too_slow(arm: Served, champion: Served, *, limits: ServedLimits) -> str:
    """Why the arm's p99 is beyond the limit; empty where it is within, or where either is not known yet."""
    if slowness_unknown(arm, champion) or arm.p99_ms is None or champion.p99_ms is None:
        return ""
    limit = champion.p99_ms * limits.latency
    if arm.p99_ms <= limit:
        return ""
    return (
        f"p99 {arm.p99_ms:.1f} ms, limit {limit:.1f} ms ({limits.latency:g} × the champion's {champion.p99_ms:.1f} ms)"
    )


def slowness_unknown(
    arm: Served, champion: Served, *, names: tuple[str, str] = ("the challenger's", "the champion's")
) -> str:
    """Why the latencies cannot be compared yet; empty where they can. `names`: whose they are, for people."""
    for name, served in zip(names, (arm, champion), strict=True):
        if served.requests < MIN_P99_REQUESTS or served.p99_ms is None:
            return f"{served.requests:,} of {MIN_P99_REQUESTS:,} requests that {name} p99 needs"
    return ""
