"""JSON Schema, as far as the stand-ins need it: the smallest valid instance, and strict objects."""

from collections.abc import Iterator, Mapping
from typing import Any

DEPTH_MAX = 16
EXAMPLES_BY_FORMAT = {
    "date-time": "2026-01-01T00:00:00Z",
    "date": "2026-01-01",
    "time": "00:00:00Z",
    "duration": "P1D",
    "email": "someone@example.com",
    "hostname": "example.com",
    "uri": "https://example.com/",
    "ipv4": "192.0.2.1",
    "ipv6": "2001:db8::1",
    "uuid": "00000000-0000-4000-8000-000000000000",
}
Schema = Mapping[str, Any]


def make_instance(schema: Schema | None) -> Any:
    """The smallest instance that fits; what it cannot satisfy (`pattern`, `not`) it ignores."""
    return _Maker(schema or {}).make(schema or {}, "value", 0)


class _Maker:
    """Makes an instance of one schema, whose `$ref`s point into it."""

    def __init__(self, root: Schema) -> None:
        self._root = root

    def make(self, schema: Schema, name: str, depth: int) -> Any:
        """An instance; `name` is the member's, which a text without an example repeats."""
        schema = self._resolve(schema)
        for word in ("const", "default"):
            if word in schema:
                return schema[word]
        if schema.get("enum"):
            return schema["enum"][0]
        makers = {
            "object": self._object,
            "array": self._array,
            "string": self._string,
            "integer": self._number,
            "number": self._number,
        }
        kind = _kind(schema)
        if kind == "boolean":
            return True
        maker = makers.get(kind)
        return maker(schema, name, depth) if maker and depth < DEPTH_MAX else None

    def _resolve(self, schema: Schema) -> Schema:
        """The schema itself: references followed, the first alternative taken."""
        for _ in range(DEPTH_MAX):
            reference = schema.get("$ref")
            if isinstance(reference, str):
                schema = self._find(reference)
                continue
            for word in ("anyOf", "oneOf"):
                if schema.get(word):
                    schema = {**schema, **schema[word][0]}
                    schema = {key: value for key, value in schema.items() if key != word}
                    break
            else:
                return _merge(schema)
        return schema

    def _find(self, reference: str) -> Schema:
        found: Any = self._root
        for step in reference.removeprefix("#").strip("/").split("/"):
            if step:
                found = found.get(step, {}) if isinstance(found, Mapping) else {}
        return found if isinstance(found, Mapping) else {}

    def _object(self, schema: Schema, _: str, depth: int) -> dict[str, Any]:
        properties = schema.get("properties") or {}
        return {
            name: self.make(properties.get(name, {}), name, depth + 1)
            for name in schema.get("required") or ()
        }

    def _array(self, schema: Schema, name: str, depth: int) -> list[Any]:
        count = int(schema.get("minItems") or 0)
        return [self.make(schema.get("items") or {}, name, depth + 1) for _ in range(count)]

    def _string(self, schema: Schema, name: str, _: int) -> str:
        text = EXAMPLES_BY_FORMAT.get(str(schema.get("format")), name)
        text = text.ljust(int(schema.get("minLength") or 0), "x")
        longest = schema.get("maxLength")
        return text if longest is None else text[: int(longest)]

    def _number(self, schema: Schema, _name: str, _depth: int) -> int | float:
        step = schema.get("multipleOf") or 1
        low = schema.get("minimum", schema.get("exclusiveMinimum"))
        high = schema.get("maximum", schema.get("exclusiveMaximum"))
        if low is None:
            low = 0 if high is None or high > 0 else high - step
        value = -(-low // step) * step
        if value == schema.get("exclusiveMinimum"):
            value += step
        return int(value) if _kind(schema) == "integer" else value


def _merge(schema: Schema) -> Schema:
    """`allOf` written as one schema."""
    merged = dict(schema)
    for part in merged.pop("allOf", ()):
        properties = {**merged.get("properties", {}), **part.get("properties", {})}
        required = [*merged.get("required", ()), *part.get("required", ())]
        merged |= part
        merged |= {"properties": properties} if properties else {}
        merged |= {"required": required} if required else {}
    return merged


def _kind(schema: Schema) -> str:
    """The type in lower case (Gemini writes them in capitals); guessed where none is named."""
    kind = schema.get("type")
    if isinstance(kind, list):
        kind = next((item for item in kind if item != "null"), "null")
    if isinstance(kind, str):
        return kind.lower()
    return "object" if "properties" in schema else "array" if "items" in schema else "string"


def walk(schema: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Schema]]:
    """Every schema inside a schema, with the path to it as OpenAI's messages write it."""
    if not isinstance(schema, Mapping) or len(path) > DEPTH_MAX:
        return
    yield path, schema
    for word in ("properties", "$defs", "definitions"):
        for name, inner in (schema.get(word) or {}).items():
            yield from walk(inner, (*path, word, name))
    if isinstance(schema.get("items"), Mapping):
        yield from walk(schema["items"], (*path, "items"))
    for word in ("anyOf", "oneOf", "allOf"):
        for number, inner in enumerate(schema.get(word) or ()):
            yield from walk(inner, (*path, word, str(number)))


def is_object(schema: Schema) -> bool:
    """Whether it describes an object."""
    kind = schema.get("type")
    return kind == "object" or (isinstance(kind, list) and "object" in kind)
