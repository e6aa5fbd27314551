"""The team's first table, under a revision that the engine has, too."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade():
    op.create_table("orders", sa.Column("id", sa.Integer, primary_key=True), sa.Column("customer", sa.String))


def downgrade():
    op.drop_table("orders")
