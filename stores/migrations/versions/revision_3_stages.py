"""The stages of a trial."""

import sqlalchemy as sa
from alembic import op

revision = "3"
down_revision = "2"


def upgrade() -> None:
    op.create_table(
        "trial_stages",
        sa.Column("trial", sa.String, primary_key=True),
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("mode", sa.String, nullable=False),
        sa.Column("allocation", sa.Float, nullable=False),
        sa.Column("since", sa.String, nullable=False),
        sa.Column("actor", sa.String, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
    )
