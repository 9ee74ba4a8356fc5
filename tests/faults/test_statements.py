"""Booking is killed after each of its statements: no call is lost and none comes twice."""

import asyncio
import json

import pytest

from tests.faults.client import Clients, until
from tests.faults.invariants import violations

pytestmark = pytest.mark.faults

ENDED, RUNNING = 3, 4
TABLES = ("journal", "lease", "transfer", "ledgeraccount", "creditgrant", "usagerecord")

# One process after another books, each killed after the first statement that killed none before.
BOOK_AND_DIE = """
import json, os, signal
from django.conf import settings
from django.db import connection, connections
from django.utils import timezone
from billing import checks
from billing.ingest import Ingester
from billing.models import UsageRecord

def book(killed_after, told):
    done, booked = [], UsageRecord.objects.count()
    def watch(execute, statement, *rest):
        result = execute(statement, *rest)
        done.append(statement)
        name = f"{booked} booked, {done.count(statement)}: {statement}"
        if name not in killed_after:
            os.write(told, name.encode())
            os.kill(os.getpid(), signal.SIGKILL)
        return result
    with connection.execute_wrapper(watch):
        Ingester(settings.JOURNAL_DIR, host="here").ingest(timezone.now())

killed_after, differences = [], []
while True:
    connections.close_all()
    tells, told = os.pipe()
    process = os.fork()
    if not process:
        try:
            book(killed_after, told)
            os._exit(0)
        finally:
            os._exit(1)
    code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    os.close(told)
    with open(tells) as file:
        killed_after.append(file.read())
    differences += checks.verify().differences
    if code != -signal.SIGKILL:
        break
print(json.dumps({"killed_after": killed_after[:-1], "differences": differences, "code": code}))
"""


def test_killed_after_any_statement_of_booking_every_call_is_exact(platform, upstream):
    platform.settings["INGEST_IN_WEB"] = "false"
    process, port = platform.start_web()
    clients = Clients(platform.key, [port])

    async def scenario() -> None:
        for number in range(ENDED):
            await clients.call(f"ended-{number}", is_stream=number > 0)
        running = [
            asyncio.create_task(clients.call(f"running-{number}", tokens=2_000, pause_ms=20))
            for number in range(RUNNING)
        ]
        await until(lambda: sum(seen.delivered > 3 for seen in clients.seen) == ENDED + RUNNING)
        process.kill()
        await asyncio.gather(*running)

    asyncio.run(scenario())
    process.wait()
    told = json.loads(platform.python(BOOK_AND_DIE).splitlines()[-1])
    assert (told["code"], told["differences"]) == (0, []), told
    # First what the journal says, then what its slots say of the calls that were in flight.
    for booked in (0, ENDED):
        killed_after = "".join(one for one in told["killed_after"] if one.startswith(f"{booked} "))
        for table in TABLES:
            assert f"billing_{table}" in killed_after, killed_after
    books = platform.settle()
    assert violations(books, clients.seen, upstream.generated) == [], platform.logs()
    assert sum(record["status"] == "CRASHED" for record in books.records) == RUNNING
