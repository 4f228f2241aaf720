"""Names have theirs in the view of all events, and so have the identities that addresses got for them."""

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

# As in 0003, with names.
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
_NAMES = """
            WHEN 'fqdn' THEN CASE split_part(type, '.', 2)
                WHEN 'addresses_identified' THEN 'identity ' || (data ->> 'identity')
                WHEN 'addresses_forgotten' THEN 'identity ' || (data ->> 'identity')
                ELSE 'name ' || (data ->> 'name')
            END"""


def upgrade() -> None:
    if op.get_context().dialect.name == "postgresql":
        op.execute(_CLUSTER_EVENTS % (_SERVICES + _NAMES))


def downgrade() -> None:
    if op.get_context().dialect.name == "postgresql":
        op.execute(_CLUSTER_EVENTS % _SERVICES)
