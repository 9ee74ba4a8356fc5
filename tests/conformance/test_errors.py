"""Errors as JavaScript clients hear them: rows of the table of errors, and streams that break.

The same situations as in tests/gateway, provoked behind the same server; the Python SDKs hear all
of them there, at every run of the tests.
"""

import re
import threading
from contextlib import nullcontext

import pytest

from billing.models import UsageRecord
from tests.conformance.cells import Gateway, Question
from tests.conformance.clients import javascript
from tests.conformance.clients.javascript import JavaScript, JavaScriptError
from tests.gateway import test_broken_streams as broken
from tests.gateway import test_errors_over_http as table
from tests.gateway.conftest import served as served
from tests.gateway.served import MODELS
from tests.gateway.test_errors_over_http import Row, Stage
from tests.gateway.test_errors_over_http import stage as stage

pytestmark = pytest.mark.conformance

CLIENTS: list[type[JavaScript]] = [
    javascript.OpenAIChat,
    javascript.OpenAIResponses,
    *javascript.AI_SDKS,
]
IDS = [client.name for client in CLIENTS]
# What changes a request on its way out cannot be had here (keys of repeated calls and bodies that
# come slowly are such changes, too), nor another process's address.
CHANGED = {408, 409, 422}
ROWS = [
    row
    for row in table.ROWS
    if not row.situation.change
    and row.status not in CHANGED
    and row.situation.address == "url"
    and not row.absent
]
OPENAI = {
    400: javascript.BadRequestError,
    401: javascript.AuthenticationError,
    403: javascript.PermissionDeniedError,
    404: javascript.NotFoundError,
    429: javascript.RateLimitError,
    **dict.fromkeys((500, 502, 503, 504), javascript.InternalServerError),
}


def wire_of(client: type[JavaScript]) -> str:
    return client.runs.rpartition("-")[2]


@pytest.mark.parametrize("client", CLIENTS, ids=IDS)
@pytest.mark.parametrize("row", ROWS, ids=[row.name for row in ROWS])
def test_a_row_of_the_table_is_the_clients_own_exception(
    stage: Stage, row: Row, client: type[JavaScript]
) -> None:
    expected = row.on_wire(wire_of(client))
    kind = javascript.APICallError if client in javascript.AI_SDKS else OPENAI[expected["status"]]
    for method in row.methods:
        with stage.enter(row.situation):
            made = client(Gateway(stage.served.url, stage.transport.key, ""))
            with pytest.raises(JavaScriptError) as caught:
                getattr(made, method)(Question(row.situation.model, "Hi"))
        assert type(caught.value) is kind
        assert caught.value.status_code == expected["status"]
        # The client's own words stand before ours.
        assert re.search(expected["message"].removeprefix("^"), str(caught.value))


@pytest.mark.parametrize("fault", list(broken.FAULTS))
@pytest.mark.parametrize("upstream", list(MODELS))
@pytest.mark.parametrize("client", CLIENTS, ids=IDS)
def test_a_stream_that_breaks_says_so(
    stage: Stage, client: type[JavaScript], upstream: str, fault: str
) -> None:
    told, wire = broken.FAULTS[fault], upstream.partition(",")[0]
    heard = threading.Event()
    heard.set()  # nobody here could tell when the client has
    stage.served.upstream.script = broken.breaking(wire, told, heard)
    gateway = Gateway(stage.served.url, stage.tenants["good"].key, "")
    impatience = stage.served.limits(idle=0.1) if fault == "silence" else nullcontext()
    made = UsageRecord.objects.count()
    with impatience, pytest.raises(JavaScriptError) as caught:
        client(gateway).stream(Question(MODELS[upstream], "Hi"))
    # Its class is the client's affair: some throw the event itself. What it says is ours.
    assert broken.MESSAGES[told.code] in str(caught.value)
    assert UsageRecord.objects.count() == made + 1
