"""Logs of several nodes in one PostgreSQL database. A file of SQLite has one log, and stays as it is."""

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

# jsonb has no U+0000, which a text in an event may have: it is the replacement character here.
_CLUSTER_EVENTS = r"""
CREATE VIEW cluster_events AS
SELECT
    node,
    position,
    recorded_at_ns,
    timestamptz 'epoch' + recorded_at_ns / 1000 * interval '1 microsecond' AS time,
    actor,
    cause,
    type,
    split_part(object, ' ', 1) AS kind,
    object,
    concat_ws(
        ' ',
        object,
        replace(regexp_replace(split_part(type, '.', 2), '^pool_', ''), '_', ' '),
        data ->> 'address',
        '(' || (data ->> 'owner') || ')'
    ) AS summary,
    data
FROM (
    SELECT
        *,
        CASE split_part(type, '.', 1)
            WHEN 'policy' THEN 'policy ' || concat_ws(
                '/', data ->> 'kind', nullif(data ->> 'namespace', ''), data ->> 'name'
            )
            WHEN 'endpoint' THEN 'endpoint ' || (data ->> 'endpoint')
            WHEN 'identity' THEN 'identity ' || (data ->> 'number')
            WHEN 'ipam' THEN 'pool ' || (data ->> 'pool')
            WHEN 'node' THEN 'node ' || (data ->> 'name')
            ELSE 'options'
        END AS object
    FROM (
        SELECT
            node, position, recorded_at_ns, actor, cause, type,
            replace(data, '\u0000', '\ufffd')::jsonb AS data
        FROM events
    ) AS stored
) AS named
"""


def upgrade() -> None:
    if op.get_context().dialect.name != "postgresql":
        return
    op.execute('ALTER TABLE events ADD COLUMN node text NOT NULL COLLATE "C"')
    op.execute('ALTER TABLE events ALTER COLUMN stream TYPE text COLLATE "C"')
    op.execute("ALTER TABLE events DROP CONSTRAINT events_pkey")
    op.execute("ALTER TABLE events DROP CONSTRAINT uq_events_stream_version")
    # The first is how a log is read, folded and appended to, and no position is given twice; the second gives no
    # version twice, and finds the events of a stream; the third is for what happened everywhere in some time, and so
    # small, because time grows with the place in the table, that it costs nothing.
    op.execute("ALTER TABLE events ADD CONSTRAINT events_pkey PRIMARY KEY (node, position)")
    op.execute("ALTER TABLE events ADD CONSTRAINT uq_events_stream_version UNIQUE (node, stream, version)")
    op.execute("CREATE INDEX events_recorded_at ON events USING brin (recorded_at_ns)")
    op.execute(_CLUSTER_EVENTS)


def downgrade() -> None:
    if op.get_context().dialect.name != "postgresql":
        return
    # Fails, and changes nothing, where the database has logs of several nodes: one file can have one of them only.
    op.execute("DROP VIEW cluster_events")
    op.execute("DROP INDEX events_recorded_at")
    op.execute("ALTER TABLE events DROP CONSTRAINT events_pkey")
    op.execute("ALTER TABLE events DROP CONSTRAINT uq_events_stream_version")
    op.execute("ALTER TABLE events ADD CONSTRAINT events_pkey PRIMARY KEY (position)")
    op.execute("ALTER TABLE events ADD CONSTRAINT uq_events_stream_version UNIQUE (stream, version)")
    op.execute("ALTER TABLE events DROP COLUMN node")
