"""Lets a test database be emptied although its tables refuse DELETE and TRUNCATE."""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from django.db import connections, transaction

# What migrating puts there for each model; no test changes it.
KEPT = {"django_content_type", "auth_permission"}


@contextmanager
def without_triggers(connection: Any, tables: Collection[str] | None = None) -> Iterator[None]:
    """Inside, no trigger fires, or none of these tables; afterwards all are as before."""
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            cursor.execute("SET session_replication_role = replica")
            try:
                yield
            finally:
                cursor.execute("SET session_replication_role = DEFAULT")
            return
        cursor.execute("SELECT name, tbl_name, sql FROM sqlite_master WHERE type = 'trigger'")
        triggers = [row for row in cursor.fetchall() if tables is None or row[1] in tables]
        for name, _, _ in triggers:
            cursor.execute(f'DROP TRIGGER "{name}"')
        try:
            yield
        finally:
            for _, _, sql in triggers:
                cursor.execute(sql)


def empty(connection: Any) -> None:
    """Delete every row, as `flush` does.

    `flush` makes content types and permissions again each time, which takes longer than most tests.
    """
    with transaction.atomic(connection.alias), connection.cursor() as cursor:
        tables = _tables(connection.alias)
        if connection.vendor == "postgresql":  # rows of transactions that have not ended are seen
            cursor.execute(f"LOCK TABLE {', '.join(tables)} IN ACCESS EXCLUSIVE MODE")
        some = " UNION ALL ".join(
            f"SELECT '{table}' WHERE EXISTS (SELECT 1 FROM {table})" for table in tables
        )
        cursor.execute(some)
        filled = [table for (table,) in cursor.fetchall()]
        with without_triggers(connection, filled):
            for table in filled:
                cursor.execute(f"DELETE FROM {table}")


@cache
def _tables(alias: str) -> list[str]:
    """The tables of all models; migrations are over, so they stay the same."""
    names = connections[alias].introspection.django_table_names(
        only_existing=True, include_views=False
    )
    return sorted(set(names) - KEPT)
