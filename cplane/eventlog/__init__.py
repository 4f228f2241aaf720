"""The event log: what happened, in order, durable and chained so that a changed past is found.

May import the events, `cplane.errors`, SQLAlchemy, Alembic, msgspec, anyio and threads; must not import the engine,
whose `EventLog` it fits by shape, nor deciders, projections or edges. The only home of SQL.
"""
