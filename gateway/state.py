"""What a call takes from the store before it is made, and leaves there when it ended well.

Owns which state is kept for whom: responses and their items for clients that may come back by id,
and state of tool calls for clients whose wire has no place for it. Must know no wire format.
"""

from collections.abc import Sequence

import structlog

from gateway import conversations, memory, refusals
from gateway.catalog import Candidate
from gateway.dialects.base import ClientDialect, Inspection, Json
from gateway.snapshot import Caller
from gateway.store import Kind, Row, Store, UnableToUseStore
from gateway.translation import Translation

log = structlog.get_logger(__name__)

# Wires that carry provider state themselves: their clients send back what they were given.
SELF_CARRYING = frozenset({"anthropic", "gemini"})


TOO_LONG = (
    "The conversation that this response ends is too long to be continued by its id. Start another "
    "one with what matters of it as the input."
)


async def expand(
    store: Store, caller: Caller, dialect: ClientDialect, inspection: Inspection, body: Json
) -> Json:
    """The body with everything it refers to put in. Raises Refusal for what is not kept."""
    if not inspection.references and not inspection.previous_id:
        return body
    try:
        items = await store.load(caller.organization_id, Kind.ITEM, inspection.references)
        previous = await _previous(store, caller, inspection.previous_id)
    except UnableToUseStore:
        raise refusals.service_unavailable() from None
    return dialect.expand(body, items, previous)


async def _previous(store: Store, caller: Caller, response_id: str) -> Sequence[Json]:
    """The turns before: what the response and those before it were asked, and answered."""
    if not response_id:
        return []
    try:
        turns = await store.run(conversations.turns, caller.organization_id, response_id)
    except conversations.UnableToFind as missing:
        raise refusals.previous_response_not_found(missing.response_id) from None
    except conversations.TooLong:
        raise refusals.unsupported_value("previous_response_id", TOO_LONG) from None
    return conversations.items(turns)


async def restore(
    store: Store, caller: Caller, translation: Translation, candidates: Sequence[Candidate]
) -> None:
    """Put back the state of earlier tool calls, where a candidate's provider may want it."""
    if translation.dialect.name in SELF_CARRYING or not _may_need_state(translation, candidates):
        return
    ids = memory.missing_ids(translation.request)
    try:
        kept = await store.load(caller.organization_id, Kind.TOOL_CALL, ids)
    except UnableToUseStore:
        raise refusals.service_unavailable() from None
    translation.request = memory.restore(translation.request, kept)


def _may_need_state(translation: Translation, candidates: Sequence[Candidate]) -> bool:
    return any(
        not translation.passes_through(row) and translation.wire(row).name != "openai_chat"
        for row in candidates
    )


async def keep(store: Store, caller: Caller, rows: list[Row]) -> None:
    """Keep what the client or its provider will want back; a store that is away loses only that."""
    try:
        if rows:
            await store.run(conversations.save, caller.organization_id, rows)
    except UnableToUseStore:
        log.exception("state could not be kept", deploy_id=caller.deploy_id)


def rows_to_keep(
    translation: Translation, asked: Json, recorder: memory.Recorder, result: Json | None
) -> list[Row]:
    """What this call leaves behind.

    `asked` is the request as it came, `result` the answer as the client could ask for it again.
    """
    inspection = translation.inspection
    calls: list[Row] = []
    may_keep = inspection.keeps_state or translation.body.get("store") is not False
    if may_keep and translation.dialect.name not in SELF_CARRYING:
        kept = recorder.rows().items()
        calls = [Row(Kind.TOOL_CALL, call_id, payload) for call_id, payload in kept]
    response_id = result.get("id") if result is not None else None
    if not (inspection.keeps_state and isinstance(response_id, str) and "output" in (result or {})):
        return calls
    rows = [*(Row(Kind.ITEM, item["id"], item) for item in _items_with_ids(result)), *calls]
    turn = {
        "response": result,
        "input": _own_input(translation.body, asked),
        "belongings": [[row.kind, row.item_id] for row in rows],
    }
    return [Row(Kind.RESPONSE, response_id, turn, inspection.previous_id), *rows]


def _items_with_ids(response: Json | None) -> list[Json]:
    """The output items a client may name later; what a provider got wrong is nobody's to name."""
    output = (response or {}).get("output")
    items = output if isinstance(output, list) else []
    return [item for item in items if isinstance(item, dict) and isinstance(item.get("id"), str)]


def _own_input(body: Json, asked: Json) -> list[Json]:
    """What this turn adds, as items: without the turns before, with what it refers to put in.

    Expanding puts earlier turns first and replaces items one by one, so the last ones are its own.
    """
    given, own = body.get("input"), asked.get("input")
    if isinstance(given, list):
        count = len(own) if isinstance(own, list) else 1
        given = given[len(given) - count :]
    if isinstance(given, str):
        content = [{"type": "input_text", "text": given}]
        return [{"type": "message", "role": "user", "content": content}]
    return [item for item in given if isinstance(item, dict)] if isinstance(given, list) else []
