"""Many rows into one table in one statement, past the ORM: the hot path's way to write.

Owns only the shape of the statement. Must not know what the rows mean: callers own their tables
and give values the database driver understands (see `datetime_for`); a UUID may be its 32 digits.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any

from django.db import connection

# What SQLite takes in one statement.
PARAMETERS_MAX = 32_766


def insert(
    table: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], *, suffix: str = ""
) -> list[tuple[Any, ...]]:
    """Insert `rows` and return what `suffix` asks for (`RETURNING ...`), in no promised order.

    `suffix` and the names are ours, never a user's text. The caller keeps rows x columns within
    PARAMETERS_MAX.
    """
    row = f"({','.join(['%s'] * len(columns))})"
    statement = (
        f"INSERT INTO {table} ({','.join(columns)}) "  # noqa: S608 - our own names only
        f"VALUES {','.join([row] * len(rows))} {suffix}"
    )
    with connection.cursor() as cursor:
        cursor.execute(statement, [value for values in rows for value in values])
        return cursor.fetchall() if "RETURNING" in suffix else []


def copy(table: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Add many rows, by COPY on PostgreSQL, which takes them in while the next are made.

    Raises IntegrityError, DataError and, of SQLite's driver, OverflowError: none is added.
    """
    if connection.vendor != "postgresql":
        for part in _parts(rows, PARAMETERS_MAX // len(columns)):
            insert(table, columns, part)
        return
    statement = f"COPY {table} ({','.join(columns)}) FROM STDIN"
    with (
        connection.cursor() as cursor,
        connection.wrap_database_errors,
        cursor.copy(statement) as stream,
    ):
        for values in rows:
            stream.write_row(values)


def _parts(rows: Iterable[Sequence[Any]], length: int) -> Iterator[list[Sequence[Any]]]:
    rest = iter(rows)
    while part := list(itertools.islice(rest, length)):
        yield part


def placeholders(values: Iterable[object]) -> str:
    """`%s,%s,%s` for an `IN (...)` list of these values."""
    return ",".join("%s" for _ in values)


def datetime_for(value: datetime) -> Any:
    """An aware time as this database keeps it."""
    return time_keeper()(value)


def time_keeper() -> Callable[[datetime], Any]:
    """`datetime_for` for many times: finding the connection costs more than the rest of it."""
    adapt: Callable[[datetime], Any] = connection.ops.adapt_datetimefield_value
    return adapt
