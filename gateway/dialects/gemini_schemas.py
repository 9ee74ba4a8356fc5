"""JSON Schema to what Gemini takes of it, and its OpenAPI schemas back. Part of `gemini`. Pure.

Facts: ai.google.dev/api/generate-content (`responseJsonSchema`: which keywords count, and that a
`$ref` may stand with other `$` keywords only) and ai.google.dev/api/caching#Schema (the OpenAPI
subset). Requests are written with `parametersJsonSchema` and `responseJsonSchema`, which every
model on offer takes; the OpenAPI form is read from clients alone.
"""

from collections.abc import Mapping
from typing import Any

Json = dict[str, Any]

# Keywords whose values are maps of schemas, lists of schemas, or one schema.
SCHEMA_MAPS = frozenset(("properties", "$defs", "definitions", "patternProperties"))
SCHEMA_LISTS = frozenset(("anyOf", "oneOf", "allOf", "prefixItems"))
SCHEMA_VALUES = frozenset(("items", "additionalProperties", "not"))
# Refused by the service or without meaning to it.
DROPPED = frozenset(("$schema", "$comment", "discriminator", "examples"))
# int64 travels as a string in Google's JSON.
COUNTS = frozenset(
    ("minItems", "maxItems", "minLength", "maxLength", "minProperties", "maxProperties")
)
OPENAPI_NAMES = {
    "any_of": "anyOf",
    "min_items": "minItems",
    "max_items": "maxItems",
    "min_length": "minLength",
    "max_length": "maxLength",
    "min_properties": "minProperties",
    "max_properties": "maxProperties",
    "property_ordering": "propertyOrdering",
    "additional_properties": "additionalProperties",
    "defs": "$defs",
    "ref": "$ref",
}
# Of the OpenAPI form alone: hints without a counterpart in JSON Schema.
OPENAPI_ONLY = frozenset(("nullable", "propertyOrdering", "example"))


def to_gemini(schema: Mapping[str, Any]) -> Json:
    """A JSON Schema for `parametersJsonSchema` or `responseJsonSchema`, as a copy."""
    if "$ref" in schema:
        schema = {name: value for name, value in schema.items() if name.startswith("$")}
    written: Json = {}
    for name, value in schema.items():
        if name == "const":
            written["enum"] = [value]
        elif name not in DROPPED:
            written[name] = _map_schemas(name, value, to_gemini)
    return written


def from_openapi(schema: Mapping[str, Any]) -> Json:
    """A Gemini `Schema` object as JSON Schema: types in lower case, `nullable` as a type."""
    read: Json = {}
    for given, value in schema.items():
        name = OPENAPI_NAMES.get(given, given)
        if name == "type" and isinstance(value, str):
            read["type"] = value.lower()
        elif name in COUNTS and isinstance(value, str) and value.isdecimal():
            read[name] = int(value)
        elif name not in OPENAPI_ONLY:
            read[name] = _map_schemas(name, value, from_openapi)
    if schema.get("nullable") is True:
        _allow_null(read)
    if read.get("type") == "type_unspecified":
        del read["type"]
    return read


def _allow_null(schema: Json) -> None:
    if isinstance(schema.get("type"), str):
        schema["type"] = [schema["type"], "null"]
    elif isinstance(schema.get("anyOf"), list):
        schema["anyOf"] = [*schema["anyOf"], {"type": "null"}]
    if isinstance(schema.get("enum"), list) and None not in schema["enum"]:
        schema["enum"] = [*schema["enum"], None]


def _map_schemas(name: str, value: Any, convert: Any) -> Any:
    """The keyword's value with every schema inside it converted."""
    if name in SCHEMA_MAPS and isinstance(value, Mapping):
        return {
            key: convert(inner) if isinstance(inner, Mapping) else inner
            for key, inner in value.items()
        }
    if name in SCHEMA_LISTS and isinstance(value, list):
        return [convert(inner) if isinstance(inner, Mapping) else inner for inner in value]
    if name in SCHEMA_VALUES and isinstance(value, Mapping):
        return convert(value)
    return value
