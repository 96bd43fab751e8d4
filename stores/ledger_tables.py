"""The ledger's tables. Times are text in UTC (`stamp`), JSON is canonical text, so that what was hashed is what is
stored. How the database is opened and brought up to date: `ledger_database.py`.
"""

from sqlalchemy import Boolean, Column, Float, Integer, MetaData, String, Table, Text, UniqueConstraint

metadata = MetaData()

meta = Table("meta", metadata, Column("key", String, primary_key=True), Column("value", String, nullable=False))

champions = Table(
    "champion",
    metadata,
    Column("surface", String, primary_key=True),
    Column("version", Integer, nullable=False),
    Column("digest", String, nullable=False),
    Column("epoch", Integer, nullable=False),
    Column("since", String, nullable=False),
)

reigns = Table(
    "champion_history",
    metadata,
    Column("surface", String, primary_key=True),
    Column("epoch", Integer, primary_key=True),
    Column("version", Integer, nullable=False),
    Column("digest", String, nullable=False),
    Column("since", String, nullable=False),
    Column("how", String, nullable=False),
    Column("actor", String, nullable=False),
    Column("reason", Text, nullable=False),
    Column("trial", String),
    Column("restores", Integer),
)

versions = Table(
    "version",
    metadata,
    Column("version", Integer, primary_key=True, autoincrement=False),
    Column("digest", String, nullable=False, unique=True),
    Column("mode", String, nullable=False),
    Column("parent", Integer),
    Column("events_version", Integer, nullable=False),
    Column("items_version", Integer, nullable=False),
    Column("cutoff_us", String, nullable=False),  # beyond 32 bits, where PostgreSQL's integers end
    Column("offline_passed", Boolean, nullable=False),
    Column("metrics", Text, nullable=False),
    Column("run_id", String, nullable=False),
    Column("created", String, nullable=False),
    Column("checkpoint", String, nullable=False),
    Column("note", Text, nullable=False),
    Column("submitter", String, nullable=False),
)

trials = Table(
    "trial",
    metadata,
    Column("id", String, primary_key=True),
    Column("surface", String, nullable=False),
    Column("state", String, nullable=False),
    Column("challenger", Integer, nullable=False),
    Column("challenger_digest", String, nullable=False),
    Column("champion", Integer, nullable=False),
    Column("champion_digest", String, nullable=False),
    Column("champion_epoch", Integer, nullable=False),
    Column("config", Text, nullable=False),
    Column("config_hash", String, nullable=False),
    Column("salt", String, nullable=False),
    Column("allocation", Float, nullable=False),
    Column("submitter", String, nullable=False),
    Column("opened", String, nullable=False),
    Column("changed", String, nullable=False),
    Column("awaiting_since", String),
    Column("offline_worse", Boolean, nullable=False),
    Column("decided_by", String, nullable=False),
    Column("reason", Text, nullable=False),
    Column("promoted_epoch", Integer),
)

evidence = Table(
    "evidence",
    metadata,
    Column("trial", String, primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("sha256", String, nullable=False),
    Column("decision", String, nullable=False),
    Column("recorded", String, nullable=False),
    Column("evidence", Text, nullable=False),
    UniqueConstraint("trial", "sha256"),
)

stages = Table(
    "trial_stages",
    metadata,
    Column("trial", String, primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("mode", String, nullable=False),
    Column("allocation", Float, nullable=False),
    Column("since", String, nullable=False),
    Column("actor", String, nullable=False),
    Column("reason", Text, nullable=False),
)

challengers = Table(  # those after the first, which `trial` has
    "trial_challengers",
    metadata,
    Column("trial", String, primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("name", String, nullable=False),
    Column("version", Integer, nullable=False),
    Column("digest", String, nullable=False),
    UniqueConstraint("trial", "name"),
)

outs = Table(  # challengers that a look has rejected while their trial went on
    "trial_out",
    metadata,
    Column("trial", String, primary_key=True),
    Column("name", String, primary_key=True),
    Column("digest", String, nullable=False),
    Column("look", Integer, nullable=False),
)

audits = Table(
    "audit",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("time", String, nullable=False),
    Column("actor", String, nullable=False),
    Column("action", String, nullable=False),
    Column("subject", String, nullable=False),
    Column("payload", Text, nullable=False),
    Column("previous", String, nullable=False),
    Column("hash", String, nullable=False, unique=True),
)


standings = Table(
    "standing",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("surface", String, nullable=False),
    Column("version", Integer, nullable=False),
    Column("base_digest", String, nullable=False),
    Column("champion_epoch", Integer, nullable=False),
    Column("recipe", String, nullable=False),
    Column("most_deltas", Integer, nullable=False),
    Column("most_rows", Integer, nullable=False),
    Column("most_relative_change", Float, nullable=False),
    Column("least_overlap", Float, nullable=False),
    Column("granted", String, nullable=False),
    Column("expires", String, nullable=False),
    Column("granted_by", String, nullable=False),
    Column("reason", Text, nullable=False),
    Column("ended", String),
    Column("ended_by", String, nullable=False),
    Column("ended_reason", Text, nullable=False),
)

deltas = Table(
    "delta",
    metadata,
    Column("standing", Integer, primary_key=True, autoincrement=False),
    Column("sequence", Integer, primary_key=True, autoincrement=False),
    Column("digest", String, nullable=False),
    Column("base_digest", String, nullable=False),
    Column("recipe", String, nullable=False),
    Column("rows", Integer, nullable=False),
    Column("bytes", String, nullable=False),  # may be beyond 32 bits
    Column("relative_change", Float, nullable=False),
    Column("recorded", String, nullable=False),
    UniqueConstraint("standing", "digest"),
)


people = Table(
    "person",
    metadata,
    Column("key", String, primary_key=True),  # `people.key_of(name)`: one person has one, however the name is written
    Column("name", String, nullable=False),
    Column("roles", Text, nullable=False),  # JSON: a sorted list of `people.Role`
    Column("password", Text, nullable=False),  # Argon2id in PHC form; empty: no password, tokens only
    Column("created", String, nullable=False),
    Column("created_by", String, nullable=False),
    Column("disabled", String),
    Column("disabled_by", String, nullable=False),
)

tokens = Table(
    "person_token",
    metadata,
    Column("id", String, primary_key=True),
    Column("person", String, nullable=False),
    Column("label", String, nullable=False),
    Column("secret_sha256", String, nullable=False),
    Column("created", String, nullable=False),
    Column("expires", String),
    Column("revoked", String),
)

sessions = Table(
    "console_session",
    metadata,
    Column("secret_sha256", String, primary_key=True),
    Column("person", String, nullable=False),
    Column("created", String, nullable=False),
    Column("seen", String, nullable=False),
    Column("expires", String, nullable=False),
)

codes = Table(  # for one step of one person, typed where a token would be kept: a form or a parameter in Prefect
    "one_time_code",
    metadata,
    Column("secret_sha256", String, primary_key=True),
    Column("person", String, nullable=False),
    Column("step", String, nullable=False),  # approve, reject, rollback
    Column("subject", String, nullable=False),  # trial; empty for a rollback
    Column("evidence", String, nullable=False),  # SHA-256 of the newest look when it was made; empty without one
    Column("created", String, nullable=False),
    Column("expires", String, nullable=False),
    Column("used", String),
)

approvals = Table(
    "approval",
    metadata,
    Column("trial", String, primary_key=True),
    Column("evidence", String, primary_key=True),  # SHA-256 of the look that was approved
    Column("person", String, primary_key=True),  # `people.key_of(name)`
    Column("name", String, nullable=False),
    Column("reason", Text, nullable=False),
    Column("given", String, nullable=False),
)

glass = Table(
    "break_glass",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("surface", String, nullable=False),
    Column("version", Integer, nullable=False),
    Column("digest", String, nullable=False),
    Column("champion_epoch", Integer, nullable=False),  # that it was asked against
    Column("hours", Float, nullable=False),  # how long the version may serve
    Column("asked", String, nullable=False),
    Column("asked_by", String, nullable=False),
    Column("reason", Text, nullable=False),
    Column("expires", String, nullable=False),  # of the request, while nobody has confirmed it
    Column("confirmed", String),
    Column("confirmed_by", String, nullable=False),
    Column("confirmed_reason", Text, nullable=False),
    Column("epoch", Integer),  # that it made
    Column("until", String),  # from then on the gate brings the former champion back
    Column("ended", String),
    Column("ended_by", String, nullable=False),
    Column("ended_reason", Text, nullable=False),
)

notices = Table(  # audit entries that somebody is to be told of, and what became of it
    "notice",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=False),  # of the audit entry
    Column("kind", String, nullable=False),
    Column("state", String, nullable=False),  # claimed, sent, failed
    Column("attempts", Integer, nullable=False),
    Column("error", Text, nullable=False),
    Column("changed", String, nullable=False),
)
