"""Challengers whose true lift is known: a better model than the champion, its item vectors blurred as far as needed.

The champion is a model that was trained for a few epochs, the better one for more. Blurred, the better one comes down
to any lift below its own; the noise of another seed gives another model, another ranking, and the same lift. Twins are
the champion itself with noise in the last digits: other bundles that rank exactly alike.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.marketplace_home import APPROVER, SUBMITTER, Shop, deliver_organic

if TYPE_CHECKING:
    from model.fitted import Fitted

DECLARED_SHARE = 0.4
"""Of the challengers that are not null: those at the declared effect, so that power can be counted."""
OTHERS = (-0.04, 0.02, -0.05, 0.04, -0.032, 0.01, -0.02, 0.03, -0.045, -0.01, -0.05, -0.036)
"""True lifts of the rest, taken in this order: from −5 % to just below the declared effect."""
TWIN_SHARE = 0.2
"""Of the nulls: those that rank exactly as the champion."""
TWIN_BLUR = 1e-6
NULL_WITHIN = 0.003
"""A null's true lift may be this far from nothing."""
TOLERANCE = 5e-4
"""Of the calibration, in true lift."""
TWIN, NULL, DECLARED, OTHER = "twin", "null", "declared", "other"


@dataclass(frozen=True)
class Wanted:
    """What one trial is to be held on. `target`: its true lift."""

    place: int
    kind: str
    target: float


@dataclass(frozen=True)
class Challenger:
    """A registered version with its truth. `panel_error`: the standard error of `true_lift`, were the panel a sample of
    all people. `same`: the share of people for whom it ranks exactly as the champion."""

    place: int
    kind: str
    target: float
    version: int
    digest: str
    true_lift: float
    panel_error: float
    same: float


@dataclass
class Roster:
    """The champion, the better model, and a challenger for each trial; kept in a file of the home."""

    file: Path
    champion: dict[str, Any]
    better: dict[str, Any]
    challengers: dict[int, Challenger]

    def save(self) -> None:
        stated = {**vars(self), "file": str(self.file)}
        stated["challengers"] = [asdict(each) for each in self.challengers.values()]
        temporary = self.file.with_suffix(".part")
        temporary.write_text(json.dumps(stated, indent=1), encoding="utf-8")
        temporary.replace(self.file)

    @staticmethod
    def load(file: Path) -> "Roster":
        stated = json.loads(file.read_text(encoding="utf-8"))
        known = [Challenger(**each) for each in stated["challengers"]]
        return Roster(file, stated["champion"], stated["better"], {each.place: each for each in known})


def planned(trials: int, *, effect: float, seed: int) -> list[Wanted]:
    """What `trials` trials are held on, in the order in which they are held: half of them null, rounded up."""
    nulls = (trials + 1) // 2
    twins = round(TWIN_SHARE * nulls)
    rest = trials - nulls
    declared = max(1, round(DECLARED_SHARE * rest)) if rest else 0
    others = [OTHERS[place % len(OTHERS)] for place in range(rest - declared)]
    kinds = [TWIN] * twins + [NULL] * (nulls - twins) + [DECLARED] * declared + [OTHER] * len(others)
    targets = [0.0] * nulls + [effect] * declared + others
    order = np.random.default_rng([seed, 3]).permutation(trials)
    return [Wanted(place, kinds[each], targets[each]) for place, each in enumerate(order.tolist())]


def gather(shop: Shop, wanted: Sequence[Wanted], *, told: Callable[[str], None]) -> Roster:
    """The champion in place and a challenger for each trial, as far as they are not there already.

    Raises RuntimeError where the better model is not better enough, or serving's champion is another.
    """
    file = shop.home.root / "challengers.json"
    roster = Roster.load(file) if file.exists() else _beginning(shop, file, wanted, told=told)
    for each in wanted:
        if each.place not in roster.challengers:
            _add(shop, roster, each, seed=100 + each.place)
            told(f"challenger {each.place + 1} of {len(wanted)}: {roster.challengers[each.place].true_lift:+.2%}")
    return roster


def replace_challenger(shop: Shop, roster: Roster, place: int, *, attempt: int) -> Challenger:
    """Another one of the same lift, where a trial was cut off: a bundle that was rejected cannot come back."""
    former = roster.challengers[place]
    wanted = Wanted(place, NULL if former.kind == TWIN else former.kind, former.target)
    _add(shop, roster, wanted, seed=100 + place + 1_000 * attempt)
    return roster.challengers[place]


def _beginning(shop: Shop, file: Path, wanted: Sequence[Wanted], *, told: Callable[[str], None]) -> Roster:
    from flows.full_retrain import full_retrain
    from tasks.deciding import bootstrap_champion

    deliver_organic(shop)
    told(f"organic days: {shop.totals()['delivered']:,} rows")
    stated: dict[str, Any] = {**shop.where, "submitter": SUBMITTER, "now": shop.now()}
    weak = full_retrain(**stated, config=str(shop.home.root / "weak.toml"))
    if shop.ledger.champion() is None:
        reason = "the first model of this home"
        bootstrap_champion(shop.home, shop.settings, weak["version"], actor=APPROVER, reason=reason, now=shop.now())
    shop.wait_for_champion(weak["digest"])
    champion = {"version": weak["version"], "digest": weak["digest"], "rate": 0.0}
    roster = Roster(file, champion, {}, {})
    lists = _lists(shop, champion["version"])
    champion["rate"] = shop.rate(lists)
    for each in wanted:
        if each.kind == TWIN:  # before there is a candidate: a rehearsal's parent is then the champion
            _add(shop, roster, each, seed=100 + each.place)
    strong = full_retrain(**stated)
    candidate = shop.ledger.candidate()
    if candidate is None or candidate.version != strong["version"]:
        raise RuntimeError(f"v{strong['version']} is no candidate ({strong['verdict']}); train it for longer")
    rate = shop.rate(_lists(shop, strong["version"]))
    roster.better = {"version": strong["version"], "digest": strong["digest"], "rate": rate}
    roster.save()
    told(f"champion {champion['rate']:.4f} clicks per impression; {rate / champion['rate'] - 1:+.1%} with the better")
    return roster


def _add(shop: Shop, roster: Roster, wanted: Wanted, *, seed: int) -> None:
    from flows.rehearsal import rehearsal

    if wanted.kind == TWIN:
        scale = TWIN_BLUR
    else:
        better = shop.fitted(roster.better["version"])
        scale = _calibrated(shop, better, target=wanted.target, seed=seed, champion_rate=roster.champion["rate"])
    made = rehearsal(**shop.where, kind="blurred_items", scale=scale, seed=seed, submitter=SUBMITTER, now=shop.now())
    lists, champion = _lists(shop, made["version"]), _lists(shop, roster.champion["version"])
    truth = shop.panel.lift(champion, lists, exploration=shop.settings.policy.exploration)
    roster.challengers[wanted.place] = Challenger(
        wanted.place,
        wanted.kind,
        wanted.target,
        made["version"],
        made["digest"],
        true_lift=truth.lift,
        panel_error=truth.standard_error,
        same=float(np.mean([mine == theirs for mine, theirs in zip(lists, champion, strict=True)])),
    )
    if roster.better:
        roster.save()


def _calibrated(shop: Shop, better: "Fitted", *, target: float, seed: int, champion_rate: float) -> float:
    """The blur that brings the better model's true lift to `target`: found by bisection, since lift falls with blur."""
    from model.noise import blur_items

    def off(scale: float) -> float:
        rate = shop.rate(shop.candidates(blur_items(better, scale=scale, seed=seed)))
        return rate / champion_rate - 1 - target

    if off(0.0) <= 0:
        raise RuntimeError(f"the better model's lift is below {target:+.1%}: train it for longer, or the champion less")
    low, high = 0.0, 1.0
    while off(high) > 0:
        low, high = high, 2 * high
    for _ in range(20):
        middle = (low + high) / 2
        error = off(middle)
        if abs(error) <= TOLERANCE:
            return middle
        low, high = (middle, high) if error > 0 else (low, middle)
    return (low + high) / 2


def _lists(shop: Shop, version: int) -> list[list[str]]:
    return shop.candidates(shop.fitted(version))
