"""Lets a test database be emptied although its tables refuse DELETE and TRUNCATE."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def without_triggers(connection: Any) -> Iterator[None]:
    """Inside, no trigger fires; afterwards all are as before."""
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            cursor.execute("SET session_replication_role = replica")
            try:
                yield
            finally:
                cursor.execute("SET session_replication_role = DEFAULT")
            return
        cursor.execute("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'")
        triggers = cursor.fetchall()
        for name, _ in triggers:
            cursor.execute(f'DROP TRIGGER "{name}"')
        try:
            yield
        finally:
            for _, sql in triggers:
                cursor.execute(sql)
