"""People with their tokens, sessions and codes; approvals, break-glass, notices."""

import sqlalchemy as sa
from alembic import op

revision = "5"
down_revision = "4"


def upgrade() -> None:
    op.create_table(
        "person",
        sa.Column("key", sa.String, primary_key=True),
        sa.Column("name", sa.String, nullable=False),
        sa.Column("roles", sa.Text, nullable=False),
        sa.Column("password", sa.Text, nullable=False),
        sa.Column("created", sa.String, nullable=False),
        sa.Column("created_by", sa.String, nullable=False),
        sa.Column("disabled", sa.String),
        sa.Column("disabled_by", sa.String, nullable=False),
    )
    op.create_table(
        "person_token",
        sa.Column("id", sa.String, primary_key=True),
        sa.Column("person", sa.String, nullable=False),
        sa.Column("label", sa.String, nullable=False),
        sa.Column("secret_sha256", sa.String, nullable=False),
        sa.Column("created", sa.String, nullable=False),
        sa.Column("expires", sa.String),
        sa.Column("revoked", sa.String),
    )
    op.create_table(
        "console_session",
        sa.Column("secret_sha256", sa.String, primary_key=True),
        sa.Column("person", sa.String, nullable=False),
        sa.Column("created", sa.String, nullable=False),
        sa.Column("seen", sa.String, nullable=False),
        sa.Column("expires", sa.String, nullable=False),
    )
    op.create_table(
        "one_time_code",
        sa.Column("secret_sha256", sa.String, primary_key=True),
        sa.Column("person", sa.String, nullable=False),
        sa.Column("step", sa.String, nullable=False),
        sa.Column("subject", sa.String, nullable=False),
        sa.Column("evidence", sa.String, nullable=False),
        sa.Column("created", sa.String, nullable=False),
        sa.Column("expires", sa.String, nullable=False),
        sa.Column("used", sa.String),
    )
    op.create_table(
        "approval",
        sa.Column("trial", sa.String, primary_key=True),
        sa.Column("evidence", sa.String, primary_key=True),
        sa.Column("person", sa.String, primary_key=True),
        sa.Column("name", sa.String, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("given", sa.String, nullable=False),
    )
    op.create_table(
        "break_glass",
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("surface", sa.String, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("digest", sa.String, nullable=False),
        sa.Column("champion_epoch", sa.Integer, nullable=False),
        sa.Column("hours", sa.Float, nullable=False),
        sa.Column("asked", sa.String, nullable=False),
        sa.Column("asked_by", sa.String, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("expires", sa.String, nullable=False),
        sa.Column("confirmed", sa.String),
        sa.Column("confirmed_by", sa.String, nullable=False),
        sa.Column("confirmed_reason", sa.Text, nullable=False),
        sa.Column("epoch", sa.Integer),
        sa.Column("until", sa.String),
        sa.Column("ended", sa.String),
        sa.Column("ended_by", sa.String, nullable=False),
        sa.Column("ended_reason", sa.Text, nullable=False),
    )
    op.create_table(
        "notice",
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("kind", sa.String, nullable=False),
        sa.Column("state", sa.String, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("error", sa.Text, nullable=False),
        sa.Column("changed", sa.String, nullable=False),
    )
