"""JSON schemas that nobody chose, and whether a value is of one."""

from __future__ import annotations

import re

import numpy as np

NAMES = ["name", "is new", "Größe", 'k"', "items", "note", "$ref", "kind"]


def some_schema(rng: np.random.Generator, depth: int = 0) -> dict[str, object]:
    """Any schema, of what can be honoured."""
    kinds = ["integer", "number", "string", "boolean", "null", "enum", "pattern", "format", "union"]
    kind = rng.choice(kinds + ["array", "object", "object"] * (depth < 3))
    low = int(rng.integers(-20, 20))
    match kind:
        case "integer" | "number":
            return {"type": kind} | (
                {"minimum": low, "maximum": low + 7} if rng.random() < 0.5 else {}
            )
        case "string":
            return {"type": "string", "minLength": 1, "maxLength": int(rng.choice([1, 4, 60]))}
        case "enum":
            return {"enum": [low, 'a"b\\', None, [1, {"x": "é"}]][: int(rng.integers(1, 5))]}
        case "pattern":
            return {"type": "string", "pattern": str(rng.choice(["^a+$", "^[x-z]{2}$", "^(é|b)$"]))}
        case "format":
            return {"type": "string", "format": str(rng.choice(["date", "uuid", "time"]))}
        case "union":
            return {"anyOf": [some_schema(rng, depth + 1), {"type": "null"}]}
        case "array":
            return {"type": "array", "items": some_schema(rng, depth + 1), "maxItems": 2}
        case "object":
            words = rng.choice(NAMES, int(rng.integers(0, 4)))
            names = [f"{word}{i}" for i, word in enumerate(words)]
            return {
                "type": "object",
                "properties": {name: some_schema(rng, depth + 1) for name in names},
                "required": names[: int(rng.integers(0, 4))],
                "additionalProperties": False,
            }
    return {"type": kind}


def fits(value: object, schema: dict) -> bool:
    """What `some_schema` says, by hand."""
    if "anyOf" in schema:
        return any(fits(value, one) for one in schema["anyOf"])
    if "enum" in schema:
        return value in schema["enum"]
    match schema["type"]:
        case "object":
            return (
                isinstance(value, dict)
                and set(schema["required"]) <= set(value) <= set(schema["properties"])
                and all(fits(item, schema["properties"][name]) for name, item in value.items())
            )
        case "array":
            return (
                isinstance(value, list)
                and len(value) <= 2
                and all(fits(item, schema["items"]) for item in value)
            )
        case "string":
            return (
                isinstance(value, str)
                and re.search(schema.get("pattern", ""), value) is not None
                and schema.get("minLength", 0) <= len(value) <= schema.get("maxLength", 99)
            )
        case "boolean":
            return isinstance(value, bool)
        case "null":
            return value is None
    return (
        not isinstance(value, bool)
        and isinstance(value, int if schema["type"] == "integer" else int | float)
        and schema.get("minimum", value) <= value <= schema.get("maximum", value)
    )
