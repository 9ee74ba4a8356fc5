"""Every example, deployed with the platform's own client, serves what it says it shows."""

import hashlib
import json
import re
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from tests.journeys.conftest import ROOT, Platform, wait_for
from tests.journeys.test_deploy_to_first_token import deploy, shorten_answers

if TYPE_CHECKING:
    from playwright.sync_api import Browser

EXAMPLES = ROOT / "examples"
MODELS_WITH_TOOLS = [
    *("claude-opus-4.5", "claude-sonnet-4.5", "gemini-3-flash", "gemini-3-pro", "gpt-4o"),
    "gpt-5.2-codex",
]
HELLO = {"id": "1", "role": "user", "parts": [{"type": "text", "text": "Hello"}]}
A_YEAR = "public, max-age=31536000, immutable"


def streamed(platform: Platform, deploy_id: str, path: str, **request: Any) -> list[bytes]:
    """The pieces in which an answer arrives, in order and decompressed."""
    with (
        httpx.Client(base_url=f"http://127.0.0.1:{platform.port}", timeout=60) as client,
        client.stream(
            request.pop("method", "GET"),
            path,
            headers={"host": f"{deploy_id}.localhost:{platform.port}"},
            **request,
        ) as answer,
    ):
        assert answer.status_code == 200, answer.read()
        return [piece for piece in answer.iter_bytes() if piece]


@pytest.fixture(scope="module")
def static_site(platform: Platform) -> str:
    return deploy(platform, "moons", str(EXAMPLES / "static-site"))


@pytest.mark.parametrize("path", ["/", "/about/", "/about"])
def test_static_site_serves_its_pages(platform: Platform, static_site: str, path: str) -> None:
    page = platform.site(static_site, path)
    assert page.status_code == 200
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert page.headers["cache-control"] == "no-cache"
    assert page.headers["referrer-policy"] == "strict-origin-when-cross-origin"
    assert "default-src 'self'" in page.headers["content-security-policy"]


def test_static_site_keeps_its_hashed_stylesheet_for_a_year(
    platform: Platform, static_site: str
) -> None:
    page = platform.site(static_site, "/").text
    (path,) = re.findall(r'href="(/assets/[^"]+\.css)"', page)
    stylesheet = platform.site(static_site, path)
    assert stylesheet.status_code == 200
    assert stylesheet.headers["cache-control"] == A_YEAR
    assert stylesheet.headers["content-type"] == "text/css; charset=utf-8"


@pytest.mark.parametrize(
    ("path", "status", "target"),
    [
        ("/moons.csv", 302, "/downloads/moons.csv"),
        ("/team", 301, "/about/"),
        ("/info/history", 301, "/about/history"),
    ],
)
def test_static_site_redirects(
    platform: Platform, static_site: str, path: str, status: int, target: str
) -> None:
    answer = platform.site(static_site, path)
    assert (answer.status_code, answer.headers["location"]) == (status, target)


def test_static_site_adds_a_header_to_some_files(platform: Platform, static_site: str) -> None:
    file = platform.site(static_site, "/downloads/moons.csv")
    assert file.headers["content-disposition"] == 'attachment; filename="moons.csv"'
    assert "Titan" in file.text


def test_static_site_has_a_page_of_its_own_for_what_is_not_found(
    platform: Platform, static_site: str
) -> None:
    page = platform.site(static_site, "/mercury")
    assert page.status_code == 404
    assert "Nothing in orbit here" in page.text


@pytest.fixture(scope="module")
def api(platform: Platform) -> str:
    return deploy(platform, "notes", str(EXAMPLES / "api-function"))


def test_api_function_keeps_notes(platform: Platform, api: str) -> None:
    note = {"text": "Grüße an den Mond 🌙", "tags": ["sky", "night"]}
    made = platform.site(api, "/api/notes", method="POST", json=note)
    assert made.status_code == 201, made.text
    assert made.headers["cache-control"] == "no-store"
    place = made.headers["location"]
    assert platform.site(api, place).json() == {"id": place.split("/")[-1], **note}
    platform.site(api, "/api/notes", method="POST", json={"text": "Other", "tags": ["sky"]})
    found = platform.site(api, "/api/notes?tag=sky&tag=night").json()["notes"]
    assert [one["text"] for one in found] == [note["text"]]
    assert platform.site(api, place, method="DELETE").status_code == 204
    assert platform.site(api, place).status_code == 404


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "message"),
    [
        ("GET", "/api/nothing", None, 404, "There is nothing at /api/nothing."),
        ("PUT", "/api/notes", b"", 405, "Use one of these methods here: GET, POST."),
        ("POST", "/api/notes", b"{", 400, "The body must be a JSON object."),
        ("POST", "/api/notes", b'{"text": ""}', 422, '"text" must have 1 to 1000 characters.'),
    ],
)
def test_api_function_explains_what_is_wrong(
    platform: Platform, api: str, method: str, path: str, body: bytes, status: int, message: str
) -> None:
    answer = platform.site(api, path, method=method, content=body)
    assert answer.status_code == status
    assert answer.json() == {"error": {"message": message}}


def test_api_function_sees_the_whole_request(platform: Platform, api: str) -> None:
    answer = platform.site(
        api, "/api/request?a=1&a=2&b=%C3%BC", headers={"cookie": "one=1; two=2", "x-own": "yes"}
    ).json()
    assert answer["version"] == "2.0"
    assert answer["query"] == [["a", "1"], ["a", "2"], ["b", "ü"]]
    assert answer["cookies"] == ["one=1", "two=2"]
    assert answer["headers"]["x-own"] == "yes"
    assert answer["sourceIp"] == "127.0.0.1"
    assert 0 < answer["remainingMs"] <= 30_000


def test_api_function_takes_and_sends_bytes(platform: Platform, api: str) -> None:
    body = bytes(range(256)) * 4
    answer = platform.site(
        api, "/api/digest", method="POST", content=body, headers={"content-type": "image/x-own"}
    )
    assert answer.json() == {"bytes": 1024, "sha256": hashlib.sha256(body).hexdigest()}
    picture = platform.site(api, "/api/pixel.png")
    assert picture.headers["content-type"] == "image/png"
    assert picture.content.startswith(b"\x89PNG\r\n\x1a\n")
    assert picture.headers["cache-control"] == "max-age=3600"


def test_api_function_repeats_headers_and_cookies(platform: Platform, api: str) -> None:
    answer = platform.site(api, "/api/visits", headers={"cookie": "visits=4"})
    assert answer.json() == {"visits": 5}
    assert answer.headers.get_list("set-cookie") == [
        "visits=5; Path=/api; HttpOnly; SameSite=Lax",
        "seen=yes; Path=/api",
    ]
    assert len(answer.headers.get_list("link")) == 2


def test_api_function_tells_only_its_owner_why_it_failed(platform: Platform, api: str) -> None:
    answer = platform.site(api, "/api/crash")
    assert answer.status_code == 502
    assert "on purpose" not in answer.text
    assert answer.json()["error"]["requestId"] == answer.headers["x-request-id"]

    def in_the_log() -> bool:
        log = platform.data_api("aws/get-logs", {"id": "notes", "minutes": 5}).json()
        return any("This went wrong on purpose." in row["message"] for row in log["entries"])

    wait_for(in_the_log, what="the log")


@pytest.fixture(scope="module")
def several(platform: Platform) -> str:
    return deploy(platform, "several", str(EXAMPLES / "several-functions"))


def test_several_functions_each_answer(platform: Platform, several: str) -> None:
    greeting = platform.site(several, "/api/greet/fr?name=Ada")
    assert greeting.headers["content-type"] == "application/json"
    assert greeting.json() == {"greeting": "Bonjour, Ada!"}
    assert platform.site(several, "/api/greet/xx").status_code == 404
    counted = platform.site(
        several, "/api/words", method="POST", content="Two words, 世界.".encode()
    )
    assert counted.json() == {"words": 3, "characters": 14}
    assert platform.site(several, "/api/words").headers["allow"] == "POST"
    assert platform.site(several, "/api/ticks?count=x").status_code == 400
    assert platform.site(several, "/api/none").status_code == 404


def test_several_functions_stream_one_event_at_a_time(platform: Platform, several: str) -> None:
    pieces = streamed(platform, several, "/api/ticks?count=4")
    assert len(pieces) >= 3
    text = b"".join(pieces).decode()
    events = [json.loads(event.removeprefix("data: ")) for event in text.split("\n\n") if event]
    assert events == [{"number": number, "of": 4} for number in (1, 2, 3, 4)]


def test_several_functions_serve_files_at_tidier_addresses(
    platform: Platform, several: str
) -> None:
    page = platform.site(several, "/docs/routes")
    assert page.status_code == 200
    assert "How this page was found" in page.text
    assert platform.site(several, "/docs/none").status_code == 404


@pytest.fixture(scope="module")
def nextjs(platform: Platform) -> str:
    return deploy(platform, "next", str(EXAMPLES / "nextjs-opennext" / "bundle.zip"))


@pytest.mark.parametrize(
    ("path", "status", "text"),
    [
        ("/", 200, "A Next.js app, served as one function"),
        ("/posts/second", 200, "The second post"),
        ("/posts/none", 404, "Nothing here"),
        ("/nothing", 404, "Nothing here"),
    ],
)
def test_nextjs_serves_its_pages(
    platform: Platform, nextjs: str, path: str, status: int, text: str
) -> None:
    page = platform.site(nextjs, path)
    assert page.status_code == status
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert text in page.text


def test_nextjs_renders_a_page_for_every_visit(platform: Platform, nextjs: str) -> None:
    pages = [platform.site(nextjs, "/time", headers={"user-agent": f"me/{n}"}) for n in (1, 2)]
    assert "<code>me/1</code>" in pages[0].text
    assert "<code>me/2</code>" in pages[1].text


def test_nextjs_answers_api_calls(platform: Platform, nextjs: str) -> None:
    assert platform.site(nextjs, "/api/hello?name=Ada").json() == {"hello": "Ada"}
    made = platform.site(nextjs, "/api/hello", method="POST", json={"name": "Grüße"})
    assert (made.status_code, made.json()) == (201, {"hello": "Grüße"})
    assert platform.site(nextjs, "/api/hello", method="POST", content=b"{").status_code == 400


def test_nextjs_streams_word_by_word(platform: Platform, nextjs: str) -> None:
    pieces = streamed(platform, nextjs, "/api/stream")
    assert len(pieces) >= 5
    assert b"writes" not in pieces[0], "the whole answer came at once"
    expected = b"These words are sent one by one, as the server writes them. "
    assert b"".join(pieces) == expected


def test_nextjs_keeps_its_scripts_and_styles_for_a_year(platform: Platform, nextjs: str) -> None:
    page = platform.site(nextjs, "/").text
    paths = set(re.findall(r'(?:src|href)="(/_next/static/[^"]+)"', page))
    assert {path.rsplit(".", 1)[-1] for path in paths} >= {"js", "css"}
    for path in paths:
        file = platform.site(nextjs, path)
        assert (file.status_code, file.headers["cache-control"]) == (200, A_YEAR)


@pytest.mark.browser
def test_nextjs_goes_from_page_to_page_without_loading_anew(
    platform: Platform, nextjs: str, browser: "Browser"
) -> None:
    page = browser.new_page()
    failures: list[str] = []
    page.on("pageerror", lambda error: failures.append(str(error)))
    page.goto(f"http://{nextjs}.localhost:{platform.port}/")
    page.evaluate("window.isFirstPage = true")
    page.get_by_role("link", name="Time").click()
    page.locator("#rendered-at").wait_for()
    page.get_by_role("link", name="Stream").click()
    page.get_by_text("as the server writes them.").wait_for()
    assert page.evaluate("window.isFirstPage") is True
    assert failures == []
    page.close()


@pytest.fixture(scope="module")
def ai_sdk(platform: Platform) -> str:
    return deploy(platform, "ai-sdk", str(EXAMPLES / "ai-sdk-chat"), "--provision")


def ui_message(role: str, text: str) -> dict[str, Any]:
    """A message as `useChat` sends it."""
    return {"id": f"{role}-{len(text)}", "role": role, "parts": [{"type": "text", "text": text}]}


def ui_stream(
    platform: Platform, deploy_id: str, model: str, *messages: dict[str, Any]
) -> tuple[int, list[dict[str, Any]]]:
    """In how many pieces a UI message stream came, and its chunks, which end with [DONE]."""
    body = {"id": "conversation", "messages": list(messages), "model": model}
    pieces = streamed(platform, deploy_id, "/api/chat", method="POST", json=body)
    events = [event for event in b"".join(pieces).decode().split("\n\n") if event]
    assert events.pop() == "data: [DONE]"
    return len(pieces), [json.loads(event.removeprefix("data: ")) for event in events]


def text_of(chunks: list[dict[str, Any]]) -> str:
    return "".join(chunk["delta"] for chunk in chunks if chunk["type"] == "text-delta")


def test_ai_sdk_chat_says_what_to_do_without_a_key(platform: Platform) -> None:
    deploy_id = deploy(platform, "ai-sdk-bare", str(EXAMPLES / "ai-sdk-chat"))
    assert platform.site(deploy_id, "/").status_code == 200
    refused = platform.site(deploy_id, "/api/models")
    assert refused.status_code == 503
    assert "deploy --provision" in refused.json()["error"]["message"]


def test_ai_sdk_chat_offers_every_model_that_chats(platform: Platform, ai_sdk: str) -> None:
    answer = platform.site(ai_sdk, "/api/models").json()
    assert answer["default"] == "smollm2-135m"
    offered = {model["id"]: model["note"] for model in answer["models"]}
    assert offered == {"smollm2-135m": "", **dict.fromkeys(MODELS_WITH_TOOLS, "stand-in")}


def test_ai_sdk_chat_streams_from_the_local_model(platform: Platform) -> None:
    deploy_id = deploy(platform, "ai-sdk-local", str(EXAMPLES / "ai-sdk-chat"), "--provision")
    shorten_answers(platform, deploy_id)
    question = ui_message("user", "Tell me a story about a lighthouse.")
    count, chunks = ui_stream(platform, deploy_id, "smollm2-135m", question)
    assert count > 3
    assert sum(chunk["type"] == "text-delta" for chunk in chunks) > 3
    assert chunks[0] == {"type": "start", "messageMetadata": {"model": "smollm2-135m"}}
    assert chunks[-1]["type"] == "finish"
    assert chunks[-1]["messageMetadata"]["tokens"] > 10


@pytest.mark.parametrize("model", MODELS_WITH_TOOLS)
def test_ai_sdk_chat_runs_a_tool_and_answers_in_a_second_step(
    platform: Platform, ai_sdk: str, model: str
) -> None:
    script = '[[tool clock {"timeZone": "Asia/Tokyo"}]] [[then]] [[say It is late in Tokyo.]]'
    _, chunks = ui_stream(platform, ai_sdk, model, ui_message("user", script))
    (result,) = [chunk for chunk in chunks if chunk["type"] == "tool-output-available"]
    assert result["output"]["timeZone"] == "Asia/Tokyo"
    assert re.search(r"20\d\d at \d\d:\d\d", result["output"]["time"])
    assert sum(chunk["type"] == "start-step" for chunk in chunks) == 2
    assert text_of(chunks) == "It is late in Tokyo."


def test_ai_sdk_chat_lets_the_model_hear_why_a_tool_failed(platform: Platform, ai_sdk: str) -> None:
    script = '[[tool clock {"timeZone": "Moon/Crater"}]] [[then]] [[say No clock there.]]'
    _, chunks = ui_stream(platform, ai_sdk, "gpt-4o", ui_message("user", script))
    (failed,) = [chunk for chunk in chunks if chunk["type"] == "tool-output-error"]
    assert "Moon/Crater" in failed["errorText"]
    assert text_of(chunks) == "No clock there."


def test_ai_sdk_chat_goes_on_with_a_conversation_with_another_model(
    platform: Platform, ai_sdk: str
) -> None:
    conversation = [ui_message("user", "[[say I am one.]]"), ui_message("assistant", "I am one.")]
    for model in ("claude-sonnet-4.5", "gemini-3-flash", "gpt-5.2-codex"):
        conversation.append(ui_message("user", f"[[say I am {model}.]]"))
        _, chunks = ui_stream(platform, ai_sdk, model, *conversation)
        assert text_of(chunks) == f"I am {model}."
        conversation.append(ui_message("assistant", text_of(chunks)))


def test_ai_sdk_chat_tells_when_an_answer_breaks_off(platform: Platform, ai_sdk: str) -> None:
    script = ui_message("user", "[[say one two three four]] [[midstream_error]]")
    _, chunks = ui_stream(platform, ai_sdk, "claude-sonnet-4.5", script)
    (failed,) = [chunk for chunk in chunks if chunk["type"] == "error"]
    assert failed["errorText"] == "The model's provider failed to answer this request."


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "message"),
    [
        ("POST", "/api/chat", {"messages": []}, 400, '"model" must name a model.'),
        ("POST", "/api/chat", {"model": "gpt-4o", "messages": [1]}, 400, '"messages" must be a'),
        ("POST", "/api/chat", {"model": "none", "messages": [HELLO]}, 404, 'no model "none"'),
        ("GET", "/api/chat", None, 404, "There is nothing to GET at /api/chat."),
    ],
)
def test_ai_sdk_chat_explains_what_is_wrong(
    platform: Platform,
    ai_sdk: str,
    method: str,
    path: str,
    body: Any,
    status: int,
    message: str,
) -> None:
    answer = platform.site(ai_sdk, path, method=method, json=body)
    assert answer.status_code == status
    assert message in answer.json()["error"]["message"]
