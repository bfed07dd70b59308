"""How the faults of a config are told: one plain line each, with key, value and what is allowed."""

from __future__ import annotations

import re
from typing import Any, get_args

from pydantic import BaseModel

from nmtrain.config.choices import near

_WORDS = {
    "a valid dictionary": "a section of keys and values",
    "a valid list": "a list, such as [a,b]",
    "a valid boolean": "true or false",
    "a valid integer": "a whole number",
    "a valid number": "a number",
    "a valid string": "a string",
}


def written(value: Any) -> str:
    """A value as it is typed: null, true, [ff,q], {q:1:4}."""
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    if isinstance(value, list):
        return f"[{','.join(map(written, value))}]"
    if isinstance(value, dict):
        return f"{{{','.join(f'{key}:{written(inner)}' for key, inner in value.items())}}}"
    return str(value)


def describe(fault: Any, schema: type[BaseModel]) -> list[str]:
    """The lines for one of the faults that pydantic finds in ``schema``; only an unknown section has several."""
    place, section = _locate(fault["loc"], schema)
    key, value = ".".join(place), fault["input"]
    if fault["type"] == "missing":
        return [f"{key}: is missing"]
    if fault["type"] == "value_error":  # a check of ours; some of its messages begin with the value
        message = str(fault["ctx"]["error"])
        return [f"{key}: {message}" if str(value) in message else f"{key}={written(value)}: {message}"]
    if fault["type"].startswith("union_tag"):
        name = value.get("name") if isinstance(value, dict) else value
        known = [name for member in get_args(section) for name in get_args(member.model_fields["name"].annotation)]
        return [f"{key}.name={written(name)}: there is no such {key}. Available: {known}"]
    if fault["type"] == "extra_forbidden":
        known = sorted(section.model_fields)
        hint = near(place[-1], known)
        if place == ["experiment"]:
            hint = "; the file of an experiment begins with the line # @package _global_"
        return [f"{leaf}: there is no such key. Available: {known}{hint}" for leaf in _leaves(key, value)]
    message = re.sub(r" or (instance of \w+|object to extract fields from)$", "", fault["msg"].removeprefix("Input "))
    for theirs, ours in _WORDS.items():
        message = message.replace(theirs, ours)
    return [f"{key}={written(value)}: {message}"]


def no_such_name(section: str, values: dict[str, Any], known: list[str]) -> str:
    """The line for a section whose ``name`` is missing or no string at all."""
    given = f"={written(values['name'])}: there is no such {section}" if "name" in values else ": is missing"
    return f"{section}.name{given}. Available: {known}"


def _locate(place: tuple[str | int, ...], schema: type[BaseModel]) -> tuple[list[str], Any]:
    """The key parts of pydantic's location, which also holds the tags of unions, and the section that they end in."""
    section: Any = schema
    keys = []
    for part in place:
        members = [member for member in get_args(section) if hasattr(member, "model_fields")]
        if members:
            section = next(m for m in members if part in get_args(m.model_fields["name"].annotation))
            continue
        keys.append(str(part))
        fields = getattr(section, "model_fields", {})
        if part in fields:
            section = fields[part].annotation
    return keys, section


def _leaves(key: str, value: Any) -> list[str]:
    """``key=value`` for every value below a key."""
    if isinstance(value, dict) and value:
        return [leaf for part, inner in value.items() for leaf in _leaves(f"{key}.{part}", inner)]
    return [f"{key}={written(value)}"]
