"""What was refused, beside the logs in a PostgreSQL database. Beside a file of SQLite it is in a file of its own."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


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


def downgrade() -> None:
    if op.get_context().dialect.name == "postgresql":
        op.drop_table("refusals")
