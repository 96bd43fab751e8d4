"""The first schema: champions, versions, trials with their evidence, the audit."""

import sqlalchemy as sa
from alembic import op

revision = "1"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "meta",
        sa.Column("key", sa.String, primary_key=True),
        sa.Column("value", sa.String, nullable=False),
    )
    op.create_table(
        "champion",
        sa.Column("surface", sa.String, primary_key=True),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("digest", sa.String, nullable=False),
        sa.Column("epoch", sa.Integer, nullable=False),
        sa.Column("since", sa.String, nullable=False),
    )
    op.create_table(
        "champion_history",
        sa.Column("surface", sa.String, primary_key=True),
        sa.Column("epoch", sa.Integer, primary_key=True),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("digest", sa.String, nullable=False),
        sa.Column("since", sa.String, nullable=False),
        sa.Column("how", sa.String, nullable=False),
        sa.Column("actor", sa.String, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("trial", sa.String),
        sa.Column("restores", sa.Integer),
    )
    op.create_table(
        "version",
        sa.Column("version", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("digest", sa.String, nullable=False, unique=True),
        sa.Column("mode", sa.String, nullable=False),
        sa.Column("parent", sa.Integer),
        sa.Column("events_version", sa.Integer, nullable=False),
        sa.Column("items_version", sa.Integer, nullable=False),
        sa.Column("cutoff_us", sa.String, nullable=False),
        sa.Column("offline_passed", sa.Boolean, nullable=False),
        sa.Column("metrics", sa.Text, nullable=False),
        sa.Column("run_id", sa.String, nullable=False),
        sa.Column("created", sa.String, nullable=False),
        sa.Column("checkpoint", sa.String, nullable=False),
        sa.Column("note", sa.Text, nullable=False),
        sa.Column("submitter", sa.String, nullable=False),
    )
    op.create_table(
        "trial",
        sa.Column("id", sa.String, primary_key=True),
        sa.Column("surface", sa.String, nullable=False),
        sa.Column("state", sa.String, nullable=False),
        sa.Column("challenger", sa.Integer, nullable=False),
        sa.Column("challenger_digest", sa.String, nullable=False),
        sa.Column("champion", sa.Integer, nullable=False),
        sa.Column("champion_digest", sa.String, nullable=False),
        sa.Column("champion_epoch", sa.Integer, nullable=False),
        sa.Column("config", sa.Text, nullable=False),
        sa.Column("config_hash", sa.String, nullable=False),
        sa.Column("salt", sa.String, nullable=False),
        sa.Column("allocation", sa.Float, nullable=False),
        sa.Column("submitter", sa.String, nullable=False),
        sa.Column("opened", sa.String, nullable=False),
        sa.Column("changed", sa.String, nullable=False),
        sa.Column("awaiting_since", sa.String),
        sa.Column("offline_worse", sa.Boolean, nullable=False),
        sa.Column("decided_by", sa.String, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("promoted_epoch", sa.Integer),
    )
    op.create_table(
        "evidence",
        sa.Column("trial", sa.String, primary_key=True),
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("sha256", sa.String, nullable=False),
        sa.Column("decision", sa.String, nullable=False),
        sa.Column("recorded", sa.String, nullable=False),
        sa.Column("evidence", sa.Text, nullable=False),
        sa.UniqueConstraint("trial", "sha256"),
    )
    op.create_table(
        "audit",
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("time", sa.String, nullable=False),
        sa.Column("actor", sa.String, nullable=False),
        sa.Column("action", sa.String, nullable=False),
        sa.Column("subject", sa.String, nullable=False),
        sa.Column("payload", sa.Text, nullable=False),
        sa.Column("previous", sa.String, nullable=False),
        sa.Column("hash", sa.String, nullable=False, unique=True),
    )
