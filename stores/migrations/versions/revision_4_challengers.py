"""Further challengers of a trial; a running trial's state is its stage's."""

import sqlalchemy as sa
from alembic import op

revision = "4"
down_revision = "3"


def upgrade() -> None:
    op.create_table(
        "trial_challengers",
        sa.Column("trial", sa.String, primary_key=True),
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("name", sa.String, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("digest", sa.String, nullable=False),
        sa.UniqueConstraint("trial", "name"),
    )
    op.create_table(
        "trial_out",
        sa.Column("trial", sa.String, primary_key=True),
        sa.Column("name", sa.String, primary_key=True),
        sa.Column("digest", sa.String, nullable=False),
        sa.Column("look", sa.Integer, nullable=False),
    )
    _name_stages()


def _name_stages() -> None:
    """Until then a running trial was COMPARE at every stage."""
    tx = op.get_bind()
    stages = sa.table("trial_stages", sa.column("trial"), sa.column("number"), sa.column("mode"))
    trials = sa.table("trial", sa.column("id"), sa.column("state"))
    passed = sa.select(stages.c.trial, stages.c.mode).where(stages.c.mode != "killed").order_by(stages.c.number)
    for trial, mode in {row.trial: row.mode for row in tx.execute(passed)}.items():
        running = (trials.c.id == trial) & (trials.c.state == "COMPARE")
        tx.execute(sa.update(trials).where(running).values(state=mode.upper()))
