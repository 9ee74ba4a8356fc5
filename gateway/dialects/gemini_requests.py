"""generateContent requests, written for the provider. Part of `gemini`. Pure.

Facts: ai.google.dev/api/generate-content, /gemini-api/docs/function-calling, /thought-signatures.
Tool results name their function, those of one round stand in one content of role `user`, and the
model is in the URL, not in the body.
"""

import base64
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import unquote_to_bytes

import orjson

from gateway import refusals
from gateway.dialects import gemini_models, gemini_schemas, gemini_signatures
from gateway.dialects.base import Json, Target
from gateway.events import Carry
from gateway.generation import (
    Audio,
    File,
    GenerationRequest,
    Image,
    OutputFormat,
    Parameters,
    Part,
    Reasoning,
    RefusalText,
    Text,
    Tool,
    ToolCall,
    ToolChoice,
    ToolResult,
    Turn,
)

# Parameters of other wires that change what comes back and that this one cannot say.
INEXPRESSIBLE = {
    "logit_bias": "Gemini models take no logit_bias: leave it out.",
    "functions": "Use 'tools' instead of 'functions' with Gemini models.",
    "function_call": "Use 'tool_choice' instead of 'function_call' with Gemini models.",
    "web_search_options": "Web search is not offered with Gemini models: leave it out.",
    "audio": "Spoken answers are not offered with Gemini models: leave out 'audio'.",
}
MODALITIES = {"text": "TEXT", "image": "IMAGE"}
MODES = {"auto": "AUTO", "none": "NONE", "required": "ANY", "named": "ANY"}
SEED_MASK = 0x7FFFFFFF  # int32 on this wire, int64 on OpenAI's
MEDIA_TYPE_DEFAULT = "application/pdf"


def write(request: GenerationRequest, target: Target) -> Json:
    """The body for the provider. Raises Refusal naming what it cannot express."""
    _refuse_inexpressible(request.parameters.extra)
    _refuse_format_with_tools(request, target.model)
    system, contents = Conversation(target.model).write(request.turns)
    if not contents:
        # A conversation of instructions only: the service requires contents.
        system, contents = [], [{"role": "user", "parts": system or [{"text": ""}]}]
    body: Json = {"contents": contents}
    if system:
        body["systemInstruction"] = {"parts": system}
    if request.tools:
        declarations = [_write_tool(tool) for tool in request.tools]
        body["tools"] = [{"functionDeclarations": declarations}]
        if config := _write_tool_choice(request.tool_choice, request.tools, target.model):
            body["toolConfig"] = {"functionCallingConfig": config}
    if config := _write_config(request, target):
        body["generationConfig"] = config
    return body


def _refuse_inexpressible(extra: Mapping[str, Any]) -> None:
    for name, message in INEXPRESSIBLE.items():
        if extra.get(name):
            raise refusals.unsupported_value(name, message)


def _refuse_format_with_tools(request: GenerationRequest, model: str) -> None:
    if request.output_format and request.tools and not gemini_models.formats_with_tools(model):
        raise refusals.unsupported_value(
            "response_format",
            f"{model} takes no 'response_format' together with 'tools': leave out one of them, or "
            "use a model of the Gemini 3 family.",
        )


# --- the conversation ------------------------------------------------------------------------


class Conversation:
    """Writes turns as contents; remembers the names of calls, which their results must repeat."""

    def __init__(self, model: str) -> None:
        self._model = model
        self._names: dict[str, str] = {}
        self._positions: dict[str, int] = {}
        self._system: list[Json] = []
        self._contents: list[Json] = []
        self._group = ""

    def write(self, turns: Sequence[Turn]) -> tuple[list[Json], list[Json]]:
        """The parts of the system instruction, and the contents."""
        for number, turn in enumerate(turns):
            for position, part in enumerate(turn.parts):
                self._write_part(turn, part, number, f"messages[{number}].content[{position}]")
        for content in self._contents:
            self._order_results(content["parts"])
        if gemini_models.signs_thoughts(self._model):
            self._sign_steps()
        return self._system, self._contents

    def _parts(self, group: str, role: str) -> list[Json]:
        """The parts of the current content if it belongs to this group, else of a new one."""
        if group != self._group:
            self._group = group
            self._contents.append({"role": role, "parts": []})
        parts: list[Json] = self._contents[-1]["parts"]
        return parts

    def _write_part(self, turn: Turn, part: Part, number: int, at: str) -> None:
        if isinstance(part, ToolResult):
            self._parts("results", "user").extend(self._write_result(part, at))
        elif turn.role == "system":
            self._system.append(self._write_system(part, at))
        elif turn.role == "assistant":
            if written := self._write_own(part, at):
                self._parts("model", "model").append(written)
        else:
            self._parts(f"user {number}", "user").append(write_media(part, at))

    @staticmethod
    def _write_system(part: Part, at: str) -> Json:
        if not isinstance(part, Text):
            raise refusals.unsupported_value(at, f"'{at}': instructions can only be text.")
        return {"text": part.text}

    def _write_own(self, part: Part, at: str) -> Json | None:
        """A part of the model's own turn; None for what this model has no use for."""
        match part:
            case ToolCall():
                return self._write_call(part)
            case Text(text=text, carry=carry):
                signature = self._signature(carry)
                return _signed({"text": text}, signature) if text or signature else None
            case RefusalText(text=text):
                return {"text": text} if text else None
            case Reasoning(text=text, carry=carry):
                # Thoughts of other models are nothing this one ever had.
                signature = self._signature(carry)
                return _signed({"text": text, "thought": True}, signature) if signature else None
            case _:
                return write_media(part, at)

    def _signature(self, carry: Carry | None) -> str:
        """The signature to put back; "" for another provider's state or another model's."""
        if carry is None or carry.kind != gemini_signatures.GEMINI:
            return ""
        return carry.data if gemini_models.is_same(carry.model, self._model) else ""

    def _write_call(self, call: ToolCall) -> Json:
        self._names[call.call_id] = call.name
        self._positions[call.call_id] = len(self._positions)
        function = {"name": call.name, "args": read_arguments(call.arguments), "id": call.call_id}
        return _signed({"functionCall": function}, self._signature(call.carry))

    def _write_result(self, result: ToolResult, at: str) -> list[Json]:
        name = self._names.get(result.call_id) or result.name
        if not name:
            raise refusals.unsupported_value(
                at.rpartition(".")[0] + ".tool_call_id",
                f"No tool call before it has the id '{result.call_id[:80]}'.",
            )
        text = "".join(part.text for part in result.parts if isinstance(part, Text))
        media = [write_media(part, at) for part in result.parts if not isinstance(part, Text)]
        response = _write_response(text, is_error=result.is_error)
        function: Json = {"name": name, "response": response, "id": result.call_id}
        if media and gemini_models.takes_images_in_results(self._model):
            function["parts"] = media
            media = []
        return [{"functionResponse": function}, *media]

    def _order_results(self, parts: list[Json]) -> None:
        """Results in the order of their calls, what else they brought behind them."""
        if any("functionResponse" in part for part in parts):
            last = len(self._positions)
            parts.sort(
                key=lambda part: (
                    self._positions.get(part["functionResponse"]["id"], last)
                    if "functionResponse" in part
                    else last + 1
                )
            )

    def _sign_steps(self) -> None:
        """The first call of each step of the current turn must be signed, or the service refuses.

        The turn begins where the user speaks; contents of the user's in a row are one turn to the
        service, so what is said along with results of tools begins none. A call without its
        signature was made by another model, or its client dropped it.
        """
        is_spoken = is_answered = False
        for content in reversed(self._contents):
            if content["role"] == "user":
                is_spoken = True
                is_answered |= any("functionResponse" in part for part in content["parts"])
                continue
            if is_spoken and not is_answered:
                return
            is_spoken = is_answered = False
            first = next((part for part in content["parts"] if "functionCall" in part), None)
            if first is not None:
                first.setdefault("thoughtSignature", gemini_signatures.SENTINEL)


def _signed(part: Json, signature: str) -> Json:
    if signature:
        part["thoughtSignature"] = signature
    return part


def read_arguments(arguments: str) -> Json:
    """A call's arguments as the object this wire wants; what is none is wrapped, not lost."""
    try:
        value = orjson.loads(arguments or "{}")
    except orjson.JSONDecodeError:
        value = arguments
    return value if isinstance(value, dict) else {"arguments": value}


def _write_response(text: str, *, is_error: bool) -> Json:
    """A tool's answer as an object: a JSON object as it is, anything else as `result`."""
    if is_error:
        return {"error": text}
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        value = text
    return value if isinstance(value, dict) else {"result": value}


# --- media -----------------------------------------------------------------------------------


def write_media(part: Part, at: str) -> Json:
    """Content of a user or a tool. Raises Refusal for what would have to be fetched."""
    match part:
        case Text(text=text) | RefusalText(text=text) | Reasoning(text=text):
            return {"text": text}
        case Image(url=url):
            return _inline(url, at)
        case Audio(data=data, format=format_):
            return {"inlineData": {"mimeType": f"audio/{format_}", "data": data}}
        case File():
            return _write_file(part, at)
        case _:
            raise refusals.unsupported_value(
                at, f"'{at}': a {type(part).__name__} cannot stand here."
            )


def _write_file(file: File, at: str) -> Json:
    if file.data_url.startswith("data:"):
        return _inline(file.data_url, at)
    if file.data_url:
        return {"inlineData": {"mimeType": MEDIA_TYPE_DEFAULT, "data": file.data_url}}
    if file.url:
        return _inline(file.url, at)
    raise refusals.unsupported_value(
        at,
        f"'{at}': files cannot be named by id with Gemini models. Send the file itself as a data: "
        "URL.",
    )


def _inline(url: str, at: str) -> Json:
    """`inlineData` of a data: URL. The gateway fetches nothing, and Gemini takes no other URL."""
    head, comma, data = url.partition(",")
    if not head.startswith("data:") or not comma:
        raise refusals.unsupported_value(
            at,
            f"'{at}': Gemini models take images and files as data only. Download it and send it as "
            "a data: URL (data:<media type>;base64,<data>).",
        )
    media_type, *options = head.removeprefix("data:").split(";")
    if "base64" not in options:
        data = base64.b64encode(unquote_to_bytes(data)).decode()
    return {"inlineData": {"mimeType": media_type or "text/plain", "data": data}}


# --- tools and parameters --------------------------------------------------------------------


def _write_tool(tool: Tool) -> Json:
    declaration: Json = {"name": tool.name, "description": tool.description}
    if tool.schema:
        declaration["parametersJsonSchema"] = gemini_schemas.to_gemini(tool.schema)
    return declaration


def _write_tool_choice(choice: ToolChoice | None, tools: Sequence[Tool], model: str) -> Json | None:
    """The calling mode; strict tools are held to their schemas where the model can."""
    mode = MODES[choice.mode] if choice else "AUTO"
    if mode == "AUTO":
        is_strict = all(tool.strict for tool in tools) and gemini_models.validates_calls(model)
        return {"mode": "VALIDATED"} if is_strict else ({"mode": "AUTO"} if choice else None)
    if choice and choice.mode == "named":
        return {"mode": mode, "allowedFunctionNames": [choice.name]}
    return {"mode": mode}


def _write_config(request: GenerationRequest, target: Target) -> Json:
    parameters = request.parameters
    limit = parameters.output_tokens_max
    written: Json = {
        "maxOutputTokens": min(limit, target.output_tokens_max) if limit else None,
        "temperature": parameters.temperature,
        "topP": parameters.top_p,
        "topK": _top_k(parameters.extra),
        "stopSequences": list(parameters.stop) or None,
        "candidateCount": parameters.choices if parameters.choices > 1 else None,
        "seed": None if parameters.seed is None else parameters.seed & SEED_MASK,
        "presencePenalty": parameters.presence_penalty,
        "frequencyPenalty": parameters.frequency_penalty,
        "responseLogprobs": parameters.logprobs or None,
        "logprobs": parameters.top_logprobs if parameters.logprobs else None,
        "responseModalities": _modalities(parameters.extra),
        "thinkingConfig": _thinking(parameters, target.model),
        **_write_format(request.output_format),
    }
    return {name: value for name, value in written.items() if value is not None}


def _top_k(extra: Mapping[str, Any]) -> int | None:
    """Anthropic's parameter, too."""
    value = extra.get("top_k")
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _modalities(extra: Mapping[str, Any]) -> list[str] | None:
    """OpenAI's `modalities`; text alone is what every model does unasked."""
    asked = extra.get("modalities")
    if not isinstance(asked, list) or asked == ["text"]:
        return None
    for modality in asked:
        if modality not in MODALITIES:
            raise refusals.unsupported_value(
                "modalities",
                f"Invalid value: '{str(modality)[:40]}'. Gemini models answer with 'text' and, "
                "where they draw, 'image'.",
            )
    return [MODALITIES[modality] for modality in asked] or None


def _thinking(parameters: Parameters, model: str) -> Json | None:
    """How much to think. What was thought is shown to those who asked for either."""
    effort = parameters.reasoning_effort
    if effort is None and parameters.reasoning_summary is None:
        return None
    try:
        return gemini_models.thinking_config(model, effort)
    except KeyError:
        names = ", ".join(f"'{name}'" for name in gemini_models.LEVELS)
        raise refusals.unsupported_value(
            "reasoning_effort",
            f"Invalid value: '{str(effort)[:40]}'. Supported values are: {names}.",
        ) from None


def _write_format(output: OutputFormat | None) -> Json:
    if output is None:
        return {}
    written: Json = {"responseMimeType": "application/json"}
    if output.kind == "json_schema" and output.schema is not None:
        written["responseJsonSchema"] = gemini_schemas.to_gemini(output.schema)
    return written


# --- a client's own body ---------------------------------------------------------------------


def clean(body: Json) -> Json:
    """A client's own body for the provider: without the gateway's members and foreign signatures.

    The service refuses members it does not know and signatures it did not make.
    """
    cleaned = {name: value for name, value in body.items() if name not in ("model", "stream")}
    contents = body.get("contents")
    if isinstance(contents, list):
        cleaned["contents"] = _map_objects(contents, _clean_content)
    return cleaned


def _map_objects(items: list[Any], change: Callable[[Json], Json]) -> list[Any]:
    return [change(item) if isinstance(item, dict) else item for item in items]


def _clean_content(content: Json) -> Json:
    parts = content.get("parts")
    return (
        {**content, "parts": _map_objects(parts, _clean_part)}
        if isinstance(parts, list)
        else content
    )


def _clean_part(part: Json) -> Json:
    """The part without another provider's state; a call gets the sentinel in its place."""
    for name in ("thoughtSignature", "thought_signature"):
        signature = part.get(name)
        if isinstance(signature, str) and gemini_signatures.is_foreign(signature):
            part = {key: value for key, value in part.items() if key != name}
            if "functionCall" in part or "function_call" in part:
                part["thoughtSignature"] = gemini_signatures.SENTINEL
    return part
