"""What of the past an increment may learn from again: the replay buffer, kept up with what was trained."""

import numpy as np
from prefect import task
from prefect.cache_policies import NO_CACHE

from model.network.config import RankerConfig
from relations.errors import DataRejected
from stores.delivery import ingest_lock
from stores.home import Home
from stores.lake import Lake
from stores.ledger import Ledger
from stores.ledger_records import VersionRecord
from stores.pseudonyms import newest_version
from stores.replay_buffer import Rule, Seen, brought_up, read_buffer, replayable, write_buffer
from stores.settings import Settings
from stores.upkeep import LakeKeeper
from tasks.allowed import Consented, consented
from tasks.options import options_of


@task(name="keep-replay", cache_policy=NO_CACHE)
def keep_replay(home: Home, settings: Settings, *, version: int) -> int:
    """Bring the buffer up to what `version` has seen, if an increment may go on from that; returns the pieces kept.

    Under the ingest lock, so that nobody is forgotten meanwhile. Repeating it, or never doing it, changes no training.
    """
    record = Ledger.of(home, settings).version(version)
    if not record.offline_passed or not settings.increment.replay_share:
        return 0
    with ingest_lock(home):
        found, keeper = consented(home, settings), LakeKeeper(home.lake)
        buffer = brought_up(
            read_buffer(keeper),
            found.sequences,
            allowed_N=found.allowed_N,
            returned_U=found.returned_U,
            to=seen_by(record),
            rule=rule_of(home, settings, record),
        )
        write_buffer(keeper, buffer)
    return len(buffer.rows)


def replayed(home: Home, settings: Settings, record: VersionRecord, found: Consented) -> np.ndarray:
    """True for each event that an increment from the version of `record` may replay."""
    if not settings.increment.replay_share:
        return np.zeros(len(found.sequences), dtype=bool)
    if settings.train.dp_clip:  # whose events are kept must not follow from other users' events
        return np.ones(len(found.sequences), dtype=bool)
    rule, allowed_N = rule_of(home, settings, record), found.allowed_N
    buffer = brought_up(
        read_buffer(Lake(home.lake)),
        found.sequences,
        allowed_N=allowed_N,
        returned_U=found.returned_U,
        to=seen_by(record),
        rule=rule,
    )
    return replayable(buffer, found.sequences, allowed_N=allowed_N, rule=rule)


def seen_by(record: VersionRecord) -> Seen:
    return Seen(record.events_version, record.cutoff_us)


def rule_of(home: Home, settings: Settings, record: VersionRecord) -> Rule:
    """`record`'s network has the length of the pieces."""
    _, training, increment = options_of(settings)
    return Rule(increment, history_of(home, record), training.seed, newest_version(home.keys))


def history_of(home: Home, record: VersionRecord) -> int:
    """Events of a user that the network of a version sees."""
    file = home.root / record.checkpoint / "config.json"
    try:
        return int(RankerConfig.from_json_file(file).max_history)
    except (OSError, ValueError, TypeError) as error:
        raise DataRejected(f"{file}: not a model checkpoint ({error}); restore it or train again") from error
