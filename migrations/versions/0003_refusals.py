"""What was refused, beside the logs in a PostgreSQL database; and services have their names in the view of all events.

Beside a file of SQLite what was refused is in a file of its own.
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

# As in 0002, with the names of services.
_CLUSTER_EVENTS = r"""
CREATE OR REPLACE VIEW cluster_events AS
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
            WHEN 'node' THEN 'node ' || (data ->> 'name')%s
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
_SERVICES = """
            WHEN 'service' THEN CASE split_part(type, '.', 2)
                WHEN 'backend_state_changed' THEN 'backend ' || (data ->> 'backend')
                WHEN 'options_changed' THEN 'service-options'
                ELSE 'service ' || concat_ws(
                    '/', data ->> 'namespace', coalesce(data ->> 'service', data ->> 'name')
                )
            END"""


def upgrade() -> None:
    if op.get_context().dialect.name != "postgresql":
        return
    text = sa.Text(collation="C")
    op.create_table(
        "refusals",
        sa.Column("id", sa.BigInteger, sa.Identity(always=True), nullable=False),
        sa.Column("node", text, nullable=False),
        sa.Column("recorded_at_ns", sa.BigInteger, nullable=False),
        sa.Column("actor", sa.Text, nullable=False),
        sa.Column("cause", sa.Text, nullable=False),
        sa.Column("command", sa.Text, nullable=False),
        sa.Column("objects", sa.Text, nullable=False),
        sa.Column("code", sa.Text, nullable=False),
        sa.Column("message", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("node", "id", name="refusals_pkey"),  # those of a node, in order
    )
    op.execute(_CLUSTER_EVENTS % _SERVICES)


def downgrade() -> None:
    if op.get_context().dialect.name != "postgresql":
        return
    op.execute(_CLUSTER_EVENTS % "")
    op.drop_table("refusals")
