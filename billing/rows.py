"""Many rows into one table in one statement, past the ORM: the hot path's way to write.

Owns only the shape of the statement. Must not know what the rows mean: callers own their tables
and give values the database driver understands (see `datetime_for`, `uuid_for`).
"""

import uuid
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

from django.db import connection


def insert(
    table: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], *, suffix: str = ""
) -> list[tuple[Any, ...]]:
    """Insert `rows` and return what `suffix` asks for (`RETURNING ...`), in no promised order.

    `suffix` and the names are ours, never a user's text. The caller keeps rows x columns below
    SQLite's limit of 32,766 parameters a statement.
    """
    row = f"({','.join(['%s'] * len(columns))})"
    statement = (
        f"INSERT INTO {table} ({','.join(columns)}) "  # noqa: S608 - our own names only
        f"VALUES {','.join([row] * len(rows))} {suffix}"
    )
    with connection.cursor() as cursor:
        cursor.execute(statement, [value for values in rows for value in values])
        return cursor.fetchall() if "RETURNING" in suffix else []


def copy(table: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Add many rows, by COPY on PostgreSQL. Raises IntegrityError, DataError: none is added."""
    if not rows:
        return
    if connection.vendor != "postgresql":
        insert(table, columns, rows)
        return
    statement = f"COPY {table} ({','.join(columns)}) FROM STDIN"
    with (
        connection.cursor() as cursor,
        connection.wrap_database_errors,
        cursor.copy(statement) as stream,
    ):
        for values in rows:
            stream.write_row(values)


def placeholders(values: Iterable[object]) -> str:
    """`%s,%s,%s` for an `IN (...)` list of these values."""
    return ",".join("%s" for _ in values)


def datetime_for(value: datetime) -> Any:
    """An aware time as this database keeps it."""
    return connection.ops.adapt_datetimefield_value(value)


def uuid_for(value: uuid.UUID) -> uuid.UUID | str:
    """A UUID as this database keeps it."""
    return value if connection.features.has_native_uuid_field else value.hex
