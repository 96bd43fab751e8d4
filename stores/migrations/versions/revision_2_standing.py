"""Standing approvals of a champion, and the deltas recorded under them."""

import sqlalchemy as sa
from alembic import op

revision = "2"
down_revision = "1"


def upgrade() -> None:
    op.create_table(
        "standing",
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("surface", sa.String, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("base_digest", sa.String, nullable=False),
        sa.Column("champion_epoch", sa.Integer, nullable=False),
        sa.Column("recipe", sa.String, nullable=False),
        sa.Column("most_deltas", sa.Integer, nullable=False),
        sa.Column("most_rows", sa.Integer, nullable=False),
        sa.Column("most_relative_change", sa.Float, nullable=False),
        sa.Column("least_overlap", sa.Float, nullable=False),
        sa.Column("granted", sa.String, nullable=False),
        sa.Column("expires", sa.String, nullable=False),
        sa.Column("granted_by", sa.String, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("ended", sa.String),
        sa.Column("ended_by", sa.String, nullable=False),
        sa.Column("ended_reason", sa.Text, nullable=False),
    )
    op.create_table(
        "delta",
        sa.Column("standing", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("sequence", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("digest", sa.String, nullable=False),
        sa.Column("base_digest", sa.String, nullable=False),
        sa.Column("recipe", sa.String, nullable=False),
        sa.Column("rows", sa.Integer, nullable=False),
        sa.Column("bytes", sa.String, nullable=False),
        sa.Column("relative_change", sa.Float, nullable=False),
        sa.Column("recorded", sa.String, nullable=False),
        sa.UniqueConstraint("standing", "digest"),
    )
