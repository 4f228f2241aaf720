"""Runs the migrations on the connection that the opener of a log hands over, inside its transaction."""

from alembic import context
from alembic.util import CommandError

from cplane.eventlog.schema import METADATA

connection = context.config.attributes.get("connection")
if connection is None:
    raise CommandError("migrations run when a log is opened: start the agent, or open the log, on the file to migrate")

context.configure(connection=connection, target_metadata=METADATA, render_as_batch=True, transactional_ddl=True)
with context.begin_transaction():
    context.run_migrations()
