"""Group-sequential boundaries: how much evidence a look must show when there were looks before it.

One-sided, upper boundaries only: futility never binds, so nothing is won back by stopping early.

Sources: Lan & DeMets, Biometrika 1983 (spending); Armitage, McPherson & Rowe, JRSS A 1969 (the recursion);
Hwang, Shih & DeCani, Statistics in Medicine 1990 (HSD).

Shapes: _K one entry per look, _G one per grid node.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import ndtr, ndtri

Array = NDArray[np.float64]

MAX_Z = 8.0
"""No boundary is higher: 1 − Φ(8) = 6e-16 is below what the recursion resolves, and below any α that matters."""
HSD_GAMMA = -2.0
NODES_PER_SIGMA = 4
"""Grid nodes in one standard deviation of the narrower increment; Simpson's error is then below 1e-5 of z."""
REACH = 9.0
"""Standard deviations of an increment beyond which none is looked for: the normal density is 1e-18 there."""
_DEEPEST = 200
"""So many looks are worked out by recursion; of more, the first ones beforehand."""
MIN_INCREMENT = 1e-4
"""Two looks closer than this share of the information are treated as if this far apart.

Too little correlation between them only raises the boundary, and the grid stays small.
"""


class Spending(StrEnum):
    """How the one-sided α is spent over the information time t in [0, 1]."""

    OBF = "obf"
    """O'Brien–Fleming type: 2[1 − Φ(z_{1−α/2}/√t)]; almost nothing early."""
    HSD = "hsd"
    """α(1 − e^{−γt})/(1 − e^{−γ}) with γ = −2; some power early."""
    POCOCK = "pocock"
    """Pocock type: α·ln(1 + (e − 1)t); nearly equal boundaries."""


def spent(spending: Spending, *, time: float, alpha: float) -> float:
    """Cumulative one-sided α spent by information time `time`; all of it from 1 on, none at 0.

    Raises ValueError for a negative time or an α outside (0, 0.5).
    """
    if time < 0:
        raise ValueError(f"information time {time} is negative; it is the matured users over n_max")
    if not 0 < alpha < 0.5:
        raise ValueError(f"alpha {alpha} is outside (0, 0.5)")
    if time == 0:
        return 0.0
    if time >= 1:
        return alpha
    if spending is Spending.OBF:
        return float(2 * ndtr(ndtri(alpha / 2) / math.sqrt(time)))
    if spending is Spending.HSD:
        return alpha * math.expm1(-HSD_GAMMA * time) / math.expm1(-HSD_GAMMA)
    return alpha * math.log1p((math.e - 1) * time)


@dataclass(frozen=True)
class Boundary:
    """`z`: the standardised effect that promotes at this look. `spent`: cumulative α up to and with it."""

    z: float
    spent: float


def boundaries(
    times: Sequence[float],
    *,
    spending: Spending,
    alpha: float,
    final: bool,
    information: Sequence[float] | None = None,
) -> tuple[Boundary, ...]:
    """One boundary per look, from the looks that there really were.

    `times`: matured users over n_max at each look, strictly increasing; what is spent follows them, capped at 1.
    `information`: what each look's estimate really knew, in any unit, strictly increasing; the correlation between
    looks follows it. By default `times`, which is right where a user tells as much early as late.
    `final`: the last look is the trial's last, so it spends all that is left, however little information came in.

    Raises ValueError unless both are positive and strictly increasing, one entry a look.
    """
    known = tuple(float(each) for each in (times if information is None else information))
    for name, values in (("times", tuple(times)), ("information", known)):
        if any(later <= earlier for earlier, later in pairwise((0.0, *values))):
            raise ValueError(f"{name} {values} must be positive and strictly increasing; merge looks without new users")
    if len(known) != len(times):
        raise ValueError(f"{len(known)} values of information for {len(times)} looks; pass one a look")
    levels = [spent(spending, time=time, alpha=alpha) for time in times]
    if final and levels:
        levels[-1] = alpha
    return tuple(Boundary(z=z, spent=level) for z, level in zip(_recursion(known, tuple(levels)), levels, strict=True))


def crossing_probability(
    times: Sequence[float], critical_K: Sequence[float], *, drift: float | Sequence[float]
) -> tuple[float, ...]:
    """Probability that each look is the first to reach its boundary, where Z(t) has mean drift·√t and variance 1.

    `times`: information at each look, strictly increasing. `critical_K`: the boundary in z, one a look. `drift`: the
    effect in standard errors at time 1; one a look where the standard error does not fall as √t does. The sum is the
    power; at drift 0 it is the α spent. Exact to 1e-5 a look.
    Source: Jennison & Turnbull, Group Sequential Methods (2000), ch. 19.

    Raises ValueError for times that do not increase from above 0, and for boundaries or drifts of another number.
    """
    if any(later <= earlier for earlier, later in pairwise((0.0, *times))):
        raise ValueError(f"times {tuple(times)} must be positive and strictly increasing")
    drift_K = [drift] * len(times) if isinstance(drift, float | int) else list(drift)
    for name, count in (("boundaries", len(critical_K)), ("drifts", len(drift_K))):
        if count != len(times):
            raise ValueError(f"{count} {name} for {len(times)} looks; pass one a look")
    found = [0.0] * len(times)
    grid_G, mass_G = np.zeros(1), np.ones(1)
    before = 0.0
    for look, (time, z) in enumerate(zip(times, critical_K, strict=True)):
        sigma = _step(before, time)
        upper = z * math.sqrt(time) - drift_K[look] * time  # the boundary as a path without the drift meets it
        found[look] = float(mass_G @ ndtr((grid_G - upper) / sigma))
        lower = -MAX_Z * math.sqrt(time)
        if look + 1 == len(times) or upper <= lower:  # below: nobody is left to cross later
            break
        ahead = _step(time, times[look + 1])
        grid_G, mass_G = _survivors(grid_G, mass_G, sigma=sigma, ahead=ahead, lower=lower, upper=upper, reach=REACH)
        before = time
    return tuple(found)


def _recursion(times_K: tuple[float, ...], levels_K: tuple[float, ...]) -> tuple[float, ...]:
    """Critical z per look so that the paths crossing first at look k have probability levels[k] − levels[k−1].

    Works on B(t) = Z(t)·√t, whose increments are independent N(0, Δt). The density of the paths that have not yet
    crossed is kept on a Simpson grid that is fine enough for the increments on both of its sides.
    """
    if not times_K:
        return ()
    for known in range(_DEEPEST, len(times_K), _DEEPEST):
        _before(times_K[:known], levels_K[: known - 1])
    found, grid_G, mass_G = _before(times_K, levels_K[:-1])
    return (*found, _boundary_at(grid_G, mass_G, times_K=times_K, levels_K=levels_K))


@lru_cache(maxsize=256)
def _before(times_K: tuple[float, ...], levels_K: tuple[float, ...]) -> tuple[tuple[float, ...], Array, Array]:
    """The boundaries of all looks but the last, and the paths that have crossed none of them, on a grid for the last.

    `levels_K` has one entry less than `times_K`. Each look of a trial asks for all the looks before it, so each is
    worked out from what the one before it left.
    """
    if not levels_K:
        return (), np.zeros(1), np.ones(1)  # all paths start at B(0) = 0
    found, grid_G, mass_G = _before(times_K[:-1], levels_K[:-1])
    z = _boundary_at(grid_G, mass_G, times_K=times_K[:-1], levels_K=levels_K)
    time = times_K[-2]
    sigma, ahead = _step(times_K[-3] if len(times_K) > 2 else 0.0, time), _step(time, times_K[-1])
    lower, upper = -MAX_Z * math.sqrt(time), z * math.sqrt(time)
    grid_G, mass_G = _survivors(grid_G, mass_G, sigma=sigma, ahead=ahead, lower=lower, upper=upper)
    return (*found, z), grid_G, mass_G


def _boundary_at(grid_G: Array, mass_G: Array, *, times_K: tuple[float, ...], levels_K: tuple[float, ...]) -> float:
    """Of the last look, from the paths that reach it."""
    before, time = (0.0, *times_K)[-2:]
    level_before, level = (0.0, *levels_K)[-2:]
    return _critical(grid_G, mass_G, sigma=_step(before, time), scale=math.sqrt(time), tail=level - level_before)


def _step(before: float, time: float) -> float:
    """Standard deviation of the increment from one look to the next."""
    return math.sqrt(max(time - before, MIN_INCREMENT * time))


def _survivors(
    grid_G: Array, mass_G: Array, *, sigma: float, ahead: float, lower: float, upper: float, reach: float = math.inf
) -> tuple[Array, Array]:
    """The grid and mass of the paths between `lower` and `upper`, one increment of at most `reach` · σ later.

    Boundaries are on record to the last bit, and are worked out from increments of any size.
    """
    next_G, weight_G = _simpson(lower, upper, step=min(sigma, ahead) / NODES_PER_SIGMA)
    width = 2 * reach * sigma / (grid_G[1] - grid_G[0]) + 2 if len(grid_G) > 1 else math.inf
    if width < len(grid_G):
        return next_G, weight_G * _density_nearby(
            grid_G, mass_G, at_G=next_G, sigma=sigma, reach=reach, nodes=int(width)
        )
    return next_G, weight_G * _density(grid_G, mass_G, at_G=next_G, sigma=sigma)


def _critical(grid_G: Array, mass_G: Array, *, sigma: float, scale: float, tail: float) -> float:
    """The z whose exceedance by surviving paths has probability `tail`; MAX_Z where that is out of reach."""

    def excess(z: float) -> float:
        return float(mass_G @ ndtr((grid_G - z * scale) / sigma)) - tail

    if excess(MAX_Z) >= 0:
        return MAX_Z
    return float(brentq(excess, -MAX_Z, MAX_Z, xtol=1e-10))


def _density(grid_G: Array, mass_G: Array, *, at_G: Array, sigma: float) -> Array:
    """Density of the surviving paths at `at_G`, one increment later."""
    result = np.empty_like(at_G)
    block = max(1, 2_000_000 // len(grid_G))  # bounds the kernel matrix to 16 MB
    for start in range(0, len(at_G), block):
        distance = (at_G[start : start + block, None] - grid_G[None, :]) / sigma
        result[start : start + block] = np.exp(-0.5 * distance**2) @ mass_G
    return result / (sigma * math.sqrt(2 * math.pi))


def _density_nearby(grid_G: Array, mass_G: Array, *, at_G: Array, sigma: float, reach: float, nodes: int) -> Array:
    """As `_density`, from the `nodes` nodes of the even grid that begin `reach` · σ below each place."""
    first_G = np.searchsorted(grid_G, at_G - reach * sigma)
    near = first_G[:, None] + np.arange(nodes)
    there = near < len(grid_G)
    near = np.minimum(near, len(grid_G) - 1)
    kernel = np.exp(-0.5 * ((at_G[:, None] - grid_G[near]) / sigma) ** 2)
    found: Array = (kernel * np.where(there, mass_G[near], 0.0)).sum(axis=1) / (sigma * math.sqrt(2 * math.pi))
    return found


def _simpson(lower: float, upper: float, *, step: float) -> tuple[Array, Array]:
    """Nodes and weights of Simpson's rule over [lower, upper] with nodes at most `step` apart."""
    pieces = 2 * max(1, math.ceil((upper - lower) / step / 2))
    weights = np.full(pieces + 1, 2.0)
    weights[1::2] = 4.0
    weights[0] = weights[-1] = 1.0
    return np.linspace(lower, upper, pieces + 1), weights * (upper - lower) / pieces / 3
