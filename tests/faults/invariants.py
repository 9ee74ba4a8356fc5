"""What must hold after any fault: the client's and the provider's own counts against the books."""

from tests.faults.client import Seen
from tests.faults.platform import Books
from tests.faults.upstream import PROMPT_TOKENS


def violations(books: Books, seen: list[Seen], generated: dict[str, int]) -> list[str]:
    """Sentences; empty when everything holds (reliability invariants I1 to I9)."""
    found = list(books.differences)
    records = dict(books.by_request)
    if len(records) != len(books.records):
        found.append("A request is recorded twice.")
    for call in seen:
        found += _of_call(call, records.pop(call.request_id, None), generated.get(call.name))
    found += _of_unknown(list(records.values()), seen, generated)
    if books.held:
        found.append(f"{books.held} nano-dollars are held with no process alive.")
    if books.open_journals or books.directories:
        found.append(f"{books.open_journals} journals open, {books.directories} directories left.")
    return found


def _of_call(call: Seen, record: dict | None, generated: int | None) -> list[str]:
    """I1: exact when its end was seen. I2: delivered <= billed <= generated."""
    if record is None:
        if call.delivered or call.saw_end:
            return [f"{call.name} was answered and is not recorded: {call}"]
        return []
    billed = record["output"]
    if call.saw_end and (billed, record["input"], record["source"]) != (
        generated, PROMPT_TOKENS, "PROVIDER",
    ):  # fmt: skip
        return [f"{call.name} ended with {generated} tokens and is billed as {record}."]
    if not call.delivered <= billed <= (generated or 0):
        return [f"{call.name}: delivered {call.delivered}, billed {billed}, made {generated}."]
    return []


def _of_unknown(records: list[dict], seen: list[Seen], generated: dict[str, int]) -> list[str]:
    """Calls whose client never learnt their request id: nothing was delivered of them."""
    unknown = [call for call in seen if not call.request_id]
    reached = [call for call in unknown if generated.get(call.name, 0) > 0]
    billed = sum(record["output"] for record in records)
    made = sum(generated.get(call.name, 0) for call in unknown)
    if not len(reached) <= len(records) <= len(unknown):
        return [f"{len(records)} records of {len(unknown)} calls, {len(reached)} of them made."]
    if billed > made:
        return [f"{billed} tokens are billed for calls without an answer, {made} were made."]
    return []
