"""What alembic runs, on the connection that `stores.ledger_schema` hands it: inside its transaction, never its own."""

from alembic import context

from stores.ledger_tables import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
with context.begin_transaction():
    context.run_migrations()
