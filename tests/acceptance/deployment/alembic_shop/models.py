"""The team's tables."""

from sqlalchemy import Column, Integer, MetaData, String, Table

metadata = MetaData()
orders = Table("orders", metadata, Column("id", Integer, primary_key=True), Column("customer", String))
