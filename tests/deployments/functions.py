"""Functions for tests: written to disk, invoked through any driver, and what came of it."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from deployments.runtime.driver import (
    Chunk,
    Done,
    Event,
    Failed,
    FunctionDriver,
    FunctionSpec,
    InvokeContext,
)
from deployments.runtime.log_queue import Line


def write_function(
    folder: Path,
    code: str,
    *,
    entry: str = "index.mjs",
    files: Mapping[str, str] | None = None,
    release_id: str = "rel_1",
    **fields: Any,
) -> FunctionSpec:
    """A function called `api` on disk below `folder`; `files` are more of its files by path."""
    function_folder = folder / release_id / "api.func"
    for name, text in {entry: code, **(files or {})}.items():
        path = function_folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    values: dict[str, Any] = {"deployment_id": 1, "deploy_id": "app-1", **fields}
    return FunctionSpec(
        release_id=release_id,
        function_name="api",
        folder=function_folder,
        entry=entry,
        **values,
    )


class Lines:
    """Collects the log instead of the database."""

    def __init__(self) -> None:
        self.rows: list[Line] = []

    def add(self, spec: FunctionSpec, request_id: str, message: str) -> None:
        """See LineSink."""
        self.rows.append(
            Line(spec.deployment_id, spec.function_name, request_id, message, datetime.now(UTC))
        )

    @property
    def text(self) -> str:
        return "\n".join(row.message for row in self.rows)


async def invoke(
    driver: FunctionDriver,
    spec: FunctionSpec,
    event: Any = None,
    *,
    request_id: str = "r1",
    timeout: float = 30,
) -> list[Event]:
    raw = json.dumps(event or {}).encode()
    return [item async for item in driver.invoke(spec, raw, InvokeContext(request_id, timeout))]


def bytes_of(items: list[Event]) -> bytes:
    assert isinstance(items[-1], Done), items
    return b"".join(item.data for item in items if isinstance(item, Chunk))


def body_of(items: list[Event]) -> str:
    return bytes_of(items).decode()


def failure_of(items: list[Event]) -> Failed:
    assert isinstance(items[-1], Failed), items
    return items[-1]
