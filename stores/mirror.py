"""What MLflow shows is made equal to what the ledger says: aliases, the registered model's page, every version's tags.

Safe to repeat and to interrupt: it compares, and changes only what differs. What somebody moved by hand is put back,
and that it was is noted in the ledger; serving never looks at any of it.
"""

import hashlib
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from filelock import FileLock, Timeout

from gate.states import OPEN_STATES
from relations.errors import DependencyFailed
from stores.clock import home_now
from stores.failpoints import reach
from stores.ledger import Ledger
from stores.ledger_records import CHALLENGER, GATE, MOST_CHALLENGERS, Reign, Story, TrialRecord
from stores.mirrored import ALIAS, DESCRIPTION, DIGEST, Item, Left, Shown, read_left, write_left
from stores.model_story import model_description, model_tags
from stores.registry import ModelPage, Registered, Registry
from stores.version_story import APPROVED_BY, description, gate_tags
from stores.version_story import GATE as GATE_TAGS

CHAMPION = "champion"
REPAIRED = "mirror_repaired"
"""The audit's action for what was changed from outside."""
LOCK_SECONDS = 10.0
_CHALLENGERS = (CHALLENGER, *(f"{CHALLENGER}-{number}" for number in range(2, MOST_CHALLENGERS + 1)))
_ALIASES = (CHAMPION, *_CHALLENGERS)
_MOST_TOLD, _MOST_WORDS = 20, 120
_LOG = logging.getLogger(__name__)


def reconcile(ledger: Ledger, registry: Registry) -> list[str]:
    """Repair MLflow and return what was repaired, or cannot be; empty when both agreed. One process at a time.

    Raises DependencyFailed when MLflow or the ledger does not answer, or another process is at it for too long; the
    next call goes on from there.
    """
    registry.open()  # nobody waits for the lock while MLflow is imported, or is away
    with _alone(registry) as file:
        story, left = ledger.story(), read_left(file)
        page, numbered = registry.page(), registry.versions()
        faithful, report = _faithful(story, numbered)
        found = _found(page, faithful)
        wanted = found if page is None else _wanted(story, faithful, model=registry.model)
        changes = sorted(each for each in found.keys() | wanted.keys() if found.get(each, "") != wanted.get(each, ""))
        reach("mirror.compared")
        moved = left.moved(changes, found) + left.lost(found)
        if moved:
            left = _note(ledger, registry, left, [_moved(item, found, wanted) for item in moved])
        if changes:
            left = left.begun(found, wanted)
            write_left(file, left)
        reach("mirror.begun")
        aliases = [item for item in changes if item.name.startswith(ALIAS)]
        for item in changes:
            if item not in aliases:
                _write(registry, item, wanted.get(item, ""))
        reach("mirror.tags")
        for item in aliases:
            _write(registry, item, wanted.get(item, ""))
        reach("mirror.aliases")
        ended = left.ended(wanted)
        if ended is not left or moved:
            write_left(file, ended)
    return report + [_told(item, found.get(item, ""), wanted.get(item, "")) for item in changes]


@contextmanager
def _alone(registry: Registry) -> Iterator[Path]:
    """Gives the file of what was left in this MLflow's registered model."""
    name = hashlib.sha256(f"{registry.uri} {registry.model}".encode()).hexdigest()[
        :12
    ]  # an address may hold a password
    try:
        with FileLock(registry.home.run / "mirror.lock", timeout=LOCK_SECONDS):
            yield registry.home.run / f"mirror-{name}.json"
    except Timeout as error:
        raise DependencyFailed(
            f"{registry.home.run / 'mirror.lock'}: another process has been showing the ledger in MLflow for "
            f"{LOCK_SECONDS:.0f} s; it, or the next look, shows this too"
        ) from error


def _faithful(story: Story, registered: Sequence[Registered]) -> tuple[dict[int, Registered], list[str]]:
    """The ledger's number of a version → MLflow's of the same digest; and what is said of those that have none.

    By digest: a version that was released while MLflow was away may have another number there.
    """
    numbered = {found.version: found for found in registered}
    by_digest = {found.digest: found for found in reversed(registered)}
    faithful, report = {}, []
    for record in story.versions:
        found = by_digest.get(record.digest)
        if found is not None:
            faithful[record.version] = found
            continue
        other = numbered.get(record.version)
        has = "has no such version" if other is None else f"has another bundle, {other.digest[:12] or 'untagged'}"
        report.append(f"version {record.version}: MLflow {has}; the ledger's digest is {record.digest[:12]}…")
    return faithful, report


def _found(page: ModelPage | None, faithful: Mapping[int, Registered]) -> Shown:
    """Of all that MLflow shows, what is the mirror's to say."""
    if page is None:
        return {}
    found = {Item(0, f"{ALIAS}{name}"): f"version {page.aliases[name]}" for name in _ALIASES if name in page.aliases}
    found[Item(0, DESCRIPTION)] = page.description
    found |= {Item(0, name): text for name, text in page.tags.items() if name.startswith(GATE_TAGS)}
    for each in faithful.values():
        found |= {Item(each.version, DIGEST): each.digest, Item(each.version, DESCRIPTION): each.description}
        ours = (name for name in each.tags if name.startswith(GATE_TAGS) or name == APPROVED_BY)
        found |= {Item(each.version, name): each.tags[name] for name in ours}
    return found


def _wanted(story: Story, faithful: Mapping[int, Registered], *, model: str) -> Shown:
    trials, history = story.trials, story.history
    numbers = {number: found.version for number, found in faithful.items()}
    wanted = {
        # An alias on another bundle would be a lie.
        Item(0, f"{ALIAS}{name}"): f"version {numbers[version]}" if version in numbers else ""
        for name, version in _aliases(trials, history).items()
    }
    wanted[Item(0, DESCRIPTION)] = model_description(history, model=model, numbers=numbers)
    wanted |= {Item(0, name): text for name, text in model_tags(history, numbers=numbers).items()}
    for record in story.versions:
        if record.version in numbers:
            number = numbers[record.version]
            tags = gate_tags(record, trials=trials, history=history)
            told = description(record, trials=trials, history=history)
            wanted |= {Item(number, DIGEST): record.digest, Item(number, DESCRIPTION): told}
            wanted |= {Item(number, name): text for name, text in tags.items()}
    return wanted


def _aliases(trials: tuple[TrialRecord, ...], history: tuple[Reign, ...]) -> dict[str, int | None]:
    """The champion's, and one for each challenger that is still in the open trial, by its arm's name."""
    open_ = next((trial for trial in reversed(trials) if trial.state in OPEN_STATES and not trial.is_aa), None)
    standing = {} if open_ is None else {c.name: c.version for c in open_.challengers if c.name not in open_.out}
    return {CHAMPION: history[-1].version if history else None, **{name: standing.get(name) for name in _CHALLENGERS}}


def _note(ledger: Ledger, registry: Registry, left: Left, told: list[str]) -> Left:
    """Put it in the ledger, before it is repaired: after a kill in between it is told again, under the same name."""
    _LOG.warning("ratchet.mirror.repaired MLflow was changed from outside: %s", "; ".join(told[:_MOST_TOLD]))
    at = time.time()
    if not left.may_note(at):
        return replace(left, unnoted=left.unnoted + len(told))
    payload = {
        "model": registry.model,
        "repaired": told[:_MOST_TOLD],
        "further": len(told[_MOST_TOLD:]),
        "unreported_before": left.unnoted,
    }
    subject = f"model {registry.model} in MLflow, look {left.number[:12]}"
    now = home_now(registry.home, registry.settings)
    ledger.note(actor=GATE, action=REPAIRED, subject=subject, payload=payload, now=now)
    return left.told(at)


def _write(registry: Registry, item: Item, text: str) -> None:
    if item.name.startswith(ALIAS):
        registry.set_alias(item.name.removeprefix(ALIAS), int(text.removeprefix("version ")) if text else None)
    elif item.name == DESCRIPTION:
        registry.describe(item.version, text)
    else:
        registry.set_tag(item.version, item.name, text)


def _told(item: Item, was: str, text: str) -> str:
    if item.name.startswith(ALIAS):
        return f"{item}: {was or 'none'} → {text or 'none'}"
    if item.name == DESCRIPTION:
        return f"version {item.version}: described" if item.version else "model: described"
    return f"{item} = {text}" if text else f"{item} removed"


def _moved(item: Item, found: Shown, wanted: Shown) -> str:
    """What was found, and what it was put back to."""
    if item.name == DIGEST:
        return f"{item}: MLflow has no version of the bundle any more, and it is not put back"
    return f"{item}: {_short(found.get(item, ''))} → {_short(wanted.get(item, ''))}"


def _short(text: str) -> str:
    """Whatever somebody wrote there, on a line of a length that a person reads."""
    line = "".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in " ".join(text.split()))
    return (line if len(line) <= _MOST_WORDS else f"{line[: _MOST_WORDS - 1]}…") or "none"
