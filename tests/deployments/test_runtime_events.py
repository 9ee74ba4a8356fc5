"""Requests become Lambda events, results become responses."""

import base64
import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.runtime import events
from deployments.runtime.driver import Head


def event(**fields: Any) -> dict[str, Any]:
    request = events.Request(
        **{
            "method": "POST",
            "raw_path": "/a%20b",
            "query": "x=1&y=%20&x=2",
            "headers": [
                ("host", "app-1.localhost"),
                ("user-agent", "curl/8"),
                ("accept", "text/html"),
                ("accept", "text/plain"),
            ],
            "body": b"hi",
            "scheme": "https",
            "host": "app-1.localhost",
            "client": "192.0.2.1",
            "protocol": "HTTP/1.1",
            **fields,
        }
    )
    at = datetime(2026, 1, 2, tzinfo=UTC)
    return json.loads(events.event_of(request, request_id="r1", at=at))


def test_one_event_carries_both_versions_of_the_gateways_event() -> None:
    assert event() == {
        "version": "2.0",
        "routeKey": "$default",
        "httpMethod": "POST",
        "path": "/a%20b",
        "rawPath": "/a%20b",
        "rawQueryString": "x=1&y=%20&x=2",
        "headers": {
            "host": "app-1.localhost",
            "user-agent": "curl/8",
            "accept": "text/html,text/plain",
            "x-forwarded-for": "192.0.2.1",
            "x-forwarded-proto": "https",
            "x-forwarded-host": "app-1.localhost",
        },
        "multiValueHeaders": {
            "host": ["app-1.localhost"],
            "user-agent": ["curl/8"],
            "accept": ["text/html", "text/plain"],
            "x-forwarded-for": ["192.0.2.1"],
            "x-forwarded-proto": ["https"],
            "x-forwarded-host": ["app-1.localhost"],
        },
        "cookies": [],
        "queryStringParameters": {"x": "1,2", "y": " "},
        "multiValueQueryStringParameters": {"x": ["1", "2"], "y": [" "]},
        "resource": "/{proxy+}",
        "pathParameters": {"proxy": "a%20b"},
        "stageVariables": None,
        "body": "hi",
        "isBase64Encoded": False,
        "requestContext": {
            "accountId": "anonymous",
            "apiId": "local",
            "requestId": "r1",
            "stage": "$default",
            "time": "02/Jan/2026:00:00:00 +0000",
            "timeEpoch": 1767312000000,
            "requestTime": "02/Jan/2026:00:00:00 +0000",
            "requestTimeEpoch": 1767312000000,
            "domainName": "app-1.localhost",
            "domainPrefix": "app-1",
            "httpMethod": "POST",
            "path": "/a%20b",
            "resourcePath": "/{proxy+}",
            "protocol": "HTTP/1.1",
            "identity": {"sourceIp": "192.0.2.1", "userAgent": "curl/8"},
            "http": {
                "method": "POST",
                "path": "/a%20b",
                "protocol": "HTTP/1.1",
                "sourceIp": "192.0.2.1",
                "userAgent": "curl/8",
            },
        },
    }


def test_what_is_not_there_is_null() -> None:
    seen = event(query="", body=b"", raw_path="/")
    assert seen["queryStringParameters"] is None
    assert seen["multiValueQueryStringParameters"] is None
    assert seen["pathParameters"] is None
    assert seen["body"] is None


@given(st.binary(min_size=1, max_size=64))
def test_any_body_survives(body: bytes) -> None:
    seen = event(body=body)
    encoded = seen["body"]
    assert (base64.b64decode(encoded) if seen["isBase64Encoded"] else encoded.encode()) == body


def test_cookies_are_listed_too() -> None:
    seen = event(headers=[("cookie", "a=1; b=2"), ("cookie", "c=3;")])
    assert seen["cookies"] == ["a=1", "b=2", "c=3"]
    assert seen["headers"]["cookie"] == "a=1; b=2; c=3"


def test_hop_by_hop_and_forged_headers_end_at_the_server() -> None:
    headers = [
        ("connection", "keep-alive, X-Private"),
        ("x-private", "1"),
        ("te", "trailers"),
        ("transfer-encoding", "chunked"),
        ("x-forwarded-for", "203.0.113.9"),
        ("x-kept", "1"),
    ]
    assert event(headers=headers)["headers"] == {
        "x-kept": "1",
        "x-forwarded-for": "192.0.2.1",
        "x-forwarded-proto": "https",
        "x-forwarded-host": "app-1.localhost",
    }


def response(value: Any) -> tuple[Head, bytes]:
    return events.response_of(json.dumps(value).encode())


@pytest.mark.parametrize(
    ("value", "body"),
    [("hello", b"hello"), ({"a": 1}, b'{"a": 1}'), ([1], b"[1]"), (None, b"null"), (7, b"7")],
)
def test_a_result_without_status_is_a_json_body(value: Any, body: bytes) -> None:
    assert response(value) == (Head(200, (("content-type", "application/json"),)), body)


def test_headers_cookies_and_multiple_values_are_kept() -> None:
    head, body = response(
        {
            "statusCode": "201",
            "headers": {"X-One": 1, "X-Flag": True, "X-Both": "single", "X-Null": None},
            "multiValueHeaders": {"X-Both": ["a", "b"]},
            "cookies": ["a=1; Path=/", "b=2"],
            "body": base64.b64encode(b"\xff\x00").decode(),
            "isBase64Encoded": True,
        }
    )
    assert head == Head(
        201,
        (
            ("x-one", "1"),
            ("x-flag", "true"),
            ("x-both", "a"),
            ("x-both", "b"),
            ("set-cookie", "a=1; Path=/"),
            ("set-cookie", "b=2"),
        ),
    )
    assert body == b"\xff\x00"


def test_an_object_as_body_is_sent_as_json() -> None:
    assert response({"statusCode": 200, "body": {"a": 1}})[1] == b'{"a": 1}'


def test_headers_of_the_connection_are_the_servers() -> None:
    head, _ = response(
        {"statusCode": 200, "headers": {"Connection": "close", "Content-Length": "5", "X-A": "1"}}
    )
    assert head.headers == (("x-a", "1"),)


@pytest.mark.parametrize("status", [0, 99, 100, 199, 600, "x", None, [1]])
def test_an_impossible_status_is_refused(status: Any) -> None:
    with pytest.raises(events.UnableToAnswer, match="statusCode"):
        response({"statusCode": status})


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda c: (
            st.lists(c)
            | st.dictionaries(
                st.sampled_from(
                    [
                        "statusCode",
                        "headers",
                        "cookies",
                        "body",
                        "multiValueHeaders",
                        "isBase64Encoded",
                    ]
                ),
                c,
            )
        ),
    )
)
def test_any_result_is_answered_or_refused(value: Any) -> None:
    try:
        head, body = response(value)
    except events.UnableToAnswer:
        return
    assert 200 <= head.status <= 599
    assert isinstance(body, bytes)
