"""Every client, every model, every feature, against the running platform."""

import importlib.metadata
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest

from tests.conformance import report
from tests.conformance.cells import (
    EXTRAS,
    FEATURES,
    MODEL_LIMITS,
    MODELS,
    Answer,
    Client,
    Gateway,
    Question,
    Weather,
)
from tests.conformance.clients import (
    agents_sdk,
    anthropic_python,
    google_genai,
    javascript,
    langchain,
    openai_python,
)
from tests.conformance.conftest import Running
from tests.journeys.conftest import wait_for

pytestmark = pytest.mark.conformance

CLIENTS: list[Any] = [
    openai_python.Chat,
    openai_python.Responses,
    anthropic_python.Messages,
    google_genai.Models,
    langchain.Chat,
    langchain.Responses,
    agents_sdk.Responses,
    agents_sdk.Chat,
    javascript.OpenAIChat,
    javascript.OpenAIResponses,
    *javascript.AI_SDKS,
]
report.expect([client.name for client in CLIENTS])
LOCAL = "smollm2-135m"
STORY = "Tell me a long story about the sea."
SENTENCE = "The sun is shining over Paris today."
STEPS = (
    '[[say I look.]] [[tool get_weather {"city": "Paris"}]] [[then]] '
    '[[tool get_weather {"city": "Rome"}]] [[then]] [[say Sunny in both.]]'
)
THOUGHTFUL_STEPS = (
    '[[reason I need Paris.]] [[say I look.]] [[tool get_weather {"city": "Paris"}]] [[then]] '
    '[[reason Now Rome.]] [[tool get_weather {"city": "Rome"}]] [[then]] [[recall]]'
)
RECALLED, UNTHOUGHT = "Thoughts that came back: 2.", "Thoughts that came back: 0."
# Claude thinks when asked to, and takes its thoughts back only then; this client knows by name
# which models reason, and asks no other.
UNASKED = {("Vercel AI SDK 5, `openai()`", "claude-sonnet-4.5")}
PARALLEL = '[[tool get_weather {"city": "Paris"}]] [[tool get_weather {"city": "Rome"}]]'
PARIS, ROME = ("get_weather", {"city": "Paris"}), ("get_weather", {"city": "Rome"})
# One white pixel.
IMAGE = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8/5+hHgAHggJ/"
    "PchI7wAAAABJRU5ErkJggg=="
)


@pytest.fixture
def case(request: pytest.FixtureRequest, running: Running, record: Callable[..., None]) -> "Case":
    """The client and model of this test; skips, and says so in the report, what does not apply."""
    client_class, model, feature = request.param
    version = _version(client_class)
    why = client_class.limits.get(feature) or MODEL_LIMITS.get(model, {}).get(feature, "")
    if why:
        report.note(client_class.name, version, model, feature, why, is_passed=True)
        pytest.skip(why)
    record(client_class.name, version, model, feature, "")
    return Case(running, client_class, model)


def _version(client_class: Any) -> str:
    if issubclass(client_class, javascript.JavaScript):
        return client_class.version()
    return importlib.metadata.version(client_class.package)


@cache
def make_client(client_class: Any, gateway: Gateway, key: str | None) -> Client:
    """One for all tests: making one takes longer than a call."""
    client: Client = client_class(gateway, key)
    return client


class Case:
    """One client with one model."""

    def __init__(self, running: Running, client_class: Any, model: str) -> None:
        self.running = running
        self.gateway: Gateway = running.gateway
        self.client_class = client_class
        self.model = model
        self.is_local = model == LOCAL

    def client(self, key: str | None = None) -> Client:
        return make_client(self.client_class, self.gateway, key)

    def question(self, prompt: str = "", **options: Any) -> Question:
        """What to ask: a script for stand-ins, a plain question for the local model."""
        if self.is_local:
            # Clients to whom an answer cut short is an error get one that ends by itself.
            must_end = "length" in self.client_class.limits
            options.setdefault("tokens_max", 400 if must_end else 8)
            if must_end:
                options["temperature"] = 0.0
            prompt = "Say hello." if must_end else STORY
        return Question(self.model, prompt or f"[[say {SENTENCE}]]", **options)

    def thoughtful(self, **options: Any) -> Question:
        """A tool loop, with reasoning where the model can."""
        if "reasoning" in MODEL_LIMITS.get(self.model, {}):
            return self.question(STEPS, uses_tools=True, **options)
        thinking = {"effort": "low", "tokens_max": 4000}
        return self.question(THOUGHTFUL_STEPS, uses_tools=True, **thinking, **options)

    def assert_thoughts_returned(self, answers: list[Answer]) -> None:
        """What the stand-in got back, where the model thinks."""
        if "reasoning" not in MODEL_LIMITS.get(self.model, {}):
            is_unasked = (self.client_class.name, self.model) in UNASKED
            assert answers[-1].text == (UNTHOUGHT if is_unasked else RECALLED)

    def last_record(self) -> dict[str, Any]:
        return self.running.records("model_requested = ?", self.model)[-1]

    def records_after(self, count: int) -> list[dict[str, Any]]:
        """The records after the first `count`, of which there will be one at least."""
        wait_for(lambda: len(self.running.records()) > count, what="the call to be settled")
        return self.running.records()[count:]

    def assert_said(self, answer: Answer, text: str = SENTENCE) -> None:
        if self.is_local:
            assert answer.text
        else:
            assert answer.text == text


def over(feature: str, clients: list[Any] = CLIENTS) -> Any:
    """Every client, or these, and every model for one feature."""
    assert feature in FEATURES | EXTRAS
    cells = [(client, model, feature) for client in clients for model in MODELS]
    ids = [f"{client.name}-{model}" for client, model, _ in cells]
    return pytest.mark.parametrize("case", cells, ids=ids, indirect=True)


@over("text")
def test_a_whole_answer_arrives(case: Case) -> None:
    case.assert_said(case.client().ask(case.question()))


@over("stream")
def test_an_answer_arrives_in_pieces(case: Case) -> None:
    answer = case.client().stream(case.question())
    case.assert_said(answer)
    assert answer.pieces > 1
    assert answer.finish


@over("usage")
def test_clients_are_told_what_is_billed(case: Case) -> None:
    for call in (case.client().ask, case.client().stream):
        answer = call(case.question())
        billed = case.last_record()
        assert answer.input_tokens > 0
        assert answer.output_tokens > 0
        assert answer.output_tokens == billed["output_tokens"]
        assert answer.input_tokens == billed["input_tokens"] + billed["cache_read_tokens"]


def _assert_loop(answers: list[Answer]) -> None:
    assert [answer.calls for answer in answers] == [[PARIS], [ROME], []]


@over("tools")
def test_a_tool_loop_of_two_steps(case: Case) -> None:
    answers = case.client().loop(case.question(STEPS, uses_tools=True), is_stream=False)
    _assert_loop(answers)
    case.assert_said(answers[-1], "Sunny in both.")


@over("tools, streamed")
def test_a_streamed_tool_loop_of_two_steps(case: Case) -> None:
    answers = case.client().loop(case.question(STEPS, uses_tools=True), is_stream=True)
    _assert_loop(answers)
    case.assert_said(answers[-1], "Sunny in both.")


@over("parallel tools")
def test_parallel_calls_are_answered_together(case: Case) -> None:
    for is_stream in (False, True):
        question = case.question(PARALLEL, uses_tools=True)
        answers = case.client().loop(question, is_stream=is_stream)
        assert [answer.calls for answer in answers] == [[PARIS, ROME], []]
        # The stand-in repeats what the tools said, under the names it knows them by.
        assert "get_weather: It is sunny in Paris." in answers[-1].text
        assert "get_weather: It is sunny in Rome." in answers[-1].text


@over("reasoning")
def test_reasoning_goes_round_a_tool_loop(case: Case) -> None:
    """Stand-ins refuse a step without the thoughts and signatures of the step before."""
    for is_stream in (False, True):
        answers = case.client().loop(case.thoughtful(), is_stream=is_stream)
        _assert_loop(answers)
        case.assert_thoughts_returned(answers)
        if case.client_class.shows_reasoning:
            assert "I need Paris." in answers[0].reasoning
            assert "Now Rome." in answers[1].reasoning


@over("item references", javascript.AI_SDKS_ON_RESPONSES)
def test_items_referred_to_are_found(case: Case) -> None:
    for is_stream in (False, True):
        answers = case.client().loop(case.thoughtful(), is_stream=is_stream)
        _assert_loop(answers)
        assert answers[-1].references > 0
        case.assert_thoughts_returned(answers)


@over("store: false", javascript.AI_SDKS_ON_RESPONSES)
def test_without_storing_everything_goes_round(case: Case) -> None:
    for is_stream in (False, True):
        answers = case.client().loop(case.thoughtful(is_kept=False), is_stream=is_stream)
        _assert_loop(answers)
        assert answers[-1].references == 0
        case.assert_thoughts_returned(answers)


@over("structured")
def test_an_answer_fits_a_schema(case: Case) -> None:
    question = case.question('[[json {"city": "Paris", "celsius": 21}]]', tokens_max=None)
    parsed = case.client().parse(question)
    assert isinstance(parsed, Weather)
    if not case.is_local:
        assert (parsed.city, parsed.celsius) == ("Paris", 21)


@over("image")
def test_an_image_is_accepted(case: Case) -> None:
    case.assert_said(case.client().ask(case.question(image=IMAGE)))


@over("length")
def test_the_limit_on_tokens_ends_an_answer(case: Case) -> None:
    word = case.client_class.length_word
    prompt = f"[[say {'word ' * 200}]]"
    for call in (case.client().ask, case.client().stream):
        answer = call(case.question(prompt, tokens_max=4 if case.is_local else 16))
        assert answer.finish == word
        assert answer.text


def _assert_refused(case: Case, key: str, model: str, error: str, status: int) -> None:
    for method in ("ask", "stream"):
        client = case.client(key)
        with pytest.raises(case.client_class.errors[error]) as caught:
            getattr(client, method)(Question(model, "[[say Hello.]]"))
        assert getattr(caught.value, "status_code", None) or caught.value.code == status


@over("broken stream")
def test_a_stream_that_breaks_is_an_error(case: Case) -> None:
    for fault in ("midstream_error", "cut", "garbage"):
        before = len(case.running.records())
        with pytest.raises(Exception) as caught:  # noqa: PT011 - clients agree on no class
            case.client().stream(case.question(f"[[say {SENTENCE}]] [[{fault} 3]]"))
        assert not isinstance(caught.value, AssertionError)
        made = case.records_after(before)
        assert len(made) == 1
        # Where bytes go through as they are, the client may leave first.
        assert made[0]["status"] in ("UPSTREAM_ERROR", "TRUNCATED", "CLIENT_GONE")


@over("unknown model")
def test_an_unknown_model_is_the_clients_own_exception(case: Case) -> None:
    _assert_refused(case, case.gateway.key, f"no-{case.model}", "unknown model", 404)


@over("wrong key")
def test_a_wrong_key_is_the_clients_own_exception(case: Case) -> None:
    _assert_refused(case, "aig_wrong", case.model, "wrong key", 401)


@over("no credit")
def test_no_credit_is_the_clients_own_exception(case: Case) -> None:
    _assert_refused(case, case.gateway.empty_key, case.model, "no credit", 429)


@over("disconnect")
def test_leaving_a_stream_ends_the_call_and_bills_it_once(case: Case) -> None:
    before = len(case.running.records())
    question = case.question(f"[[say {SENTENCE}]] [[silence 4]]", tokens_max=1500)
    case.client().leave(question)
    made = case.records_after(before)
    assert [one["status"] for one in made] == ["CLIENT_GONE"]
    assert made[0]["output_tokens"] > 0
