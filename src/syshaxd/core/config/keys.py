# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Dotted keys such as `services.gpu.port`: their types and meaning, and access to a mapping by them.

A free-form mapping such as `services.gpu.env` holds entries of any name: `services.gpu.env.OMP_NUM_THREADS`. A section
such as `services.NAME` may have any name but those of its siblings.
"""

import copy
import difflib
import functools
import json
import re
from collections.abc import Iterator, Mapping, MutableMapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Never, TypeVar, cast, get_args, get_type_hints

from pydantic import BaseModel, TypeAdapter, ValidationError

from syshaxd.core import jsontext
from syshaxd.core.config.aliases import new_name, old_names
from syshaxd.core.config.schema import Config
from syshaxd.core.errors import ConfigError, ConfigFault
from syshaxd.core.secrets import is_private, safe_text

ENTRY = "NAME"
"""Placeholder for the name of an entry or of a section in the list of keys."""
_KINDS = {
    "array": "a list",
    "boolean": "true or false",
    "integer": "a whole number",
    "number": "a number",
    "string": "text",
}
M = TypeVar("M", bound=MutableMapping[str, Any])


@dataclass(frozen=True, slots=True)
class Key:
    """One key of the configuration."""

    name: str
    """Dotted, with `NAME` where the user chooses the name."""
    allowed: str
    """Type and range; reads well after "must be"."""
    default: str
    """As written in the file; empty: none."""
    meaning: str
    values: TypeAdapter[Any]
    """Checks a value, or for entries the whole mapping."""
    choices: tuple[str, ...] = ()
    """All values as written in a file, if they can be listed."""
    is_list: bool = False
    """It takes a list; on a command line, comma-separated items."""
    section: str = ""
    """Pattern of the names of the section whose name the user chooses; empty: the key is in none."""
    pattern: re.Pattern[str] = field(init=False, repr=False, compare=False)
    """Matches the keys that it stands for, and splits them into their parts."""

    def __post_init__(self) -> None:
        """Derives the pattern."""
        *sections, last = self.name.split(".")
        parts = [self.section if part == ENTRY else f"({re.escape(part)})" for part in sections]
        end = "(.+)" if last == ENTRY else f"({re.escape(last)})"
        object.__setattr__(self, "pattern", re.compile(r"\.".join((*parts, end)), re.DOTALL))

    @property
    def has_entries(self) -> bool:
        """Whether it stands for all entries of a free-form mapping."""
        return self.name.endswith(f".{ENTRY}")

    def in_section(self, key: str) -> "Key":
        """This key with the names of sections that `key`, which it stands for, has in it."""
        return replace(self, name=".".join((*path_of(key)[:-1], self.name.rpartition(".")[2])))


def _section_pattern(section: type[BaseModel], inner: type[BaseModel]) -> str:
    """Names, also with dots, except those of the section's own keys; none contains the name of a section within it."""
    within = "|".join(name for name, info in inner.model_fields.items() if info.default_factory is not None)
    return rf"(?!(?:{'|'.join(section.model_fields)})\.)((?:(?!\.(?:{within})\.).)+?)"


@functools.cache
def describe() -> tuple[Key, ...]:
    """Every key, in the order of the file."""
    return tuple(_keys(Config))


def known_keys() -> tuple[str, ...]:
    """The names of all keys that take a value, in the order of the file."""
    return tuple(key.name.removesuffix(f".{ENTRY}") for key in describe())


def find_key(key: str) -> Key:
    """Returns the definition of a key, which may have its old name.

    Raises:
        ConfigError: There is no such key; the message suggests the nearest one.
    """
    known, _ = _found(key)
    return known.in_section(new_name(key)) if known.section else known


def keys_in(mapping: Mapping[str, Any]) -> tuple[Key, ...]:
    """Every key, in the order of the file; where the user chooses a section's name, for each section that is there."""
    found: list[Key] = []
    for known in describe():
        above, chosen, below = known.name.partition(f".{ENTRY}.")
        if not chosen:
            found.append(known)
            continue
        section = mapping.get(above)
        names = section if isinstance(section, Mapping) else {}
        own = re.compile(rf"{known.section}\.", re.DOTALL)
        found += [replace(known, name=f"{above}.{name}.{below}") for name in names if own.fullmatch(f"{name}.")]
    return tuple(found)


def _found(key: str) -> tuple[Key, list[str]]:
    """The definition of a key, and the parts of its name."""
    for known in describe():
        if match := known.pattern.fullmatch(new_name(key)):
            return known, list(match.groups())
    raise ConfigError((ConfigFault(key, no_such_key(key)),))


def no_such_key(key: str) -> str:
    """The message for an unknown key, with the one probably meant."""
    inside = [known.name for known in describe() if known.name.startswith(f"{key.rstrip('.')}.")]
    if inside:
        return f"is a section; name one of its keys, such as {inside[0]}"
    ends = [name for name in (*_sections(), *_suggested()) if name.endswith(f".{key}")]
    near = ends or difflib.get_close_matches(key, (*_sections(), *_suggested()), n=1, cutoff=0.6)
    return (
        f"no such key; did you mean {' or '.join(near)}?" if near else "no such key; `syshax config --help` lists all"
    )


def parse_text(key: str, text: str) -> Any:
    """Parses `text` as a key's value, as it would be written in a file.

    Raises:
        ConfigError: There is no such key, or the text is not a valid value.
    """
    known = find_key(key)
    if known.has_entries:
        return _entry_value(known.values, text)
    try:
        return known.values.dump_python(known.values.validate_strings(text), mode="json")
    except ValidationError:
        if known.is_list and (value := _list_value(known.values, text)) is not None:
            return value
        problem = f"must be {known.allowed}" if is_private(key) else must_be(known, text)
        raise ConfigError((ConfigFault(key, problem),)) from None


def _list_value(values: TypeAdapter[Any], text: str) -> Any:
    """A list from `a,b` or `["a", "b"]`; None: not a valid value."""
    try:
        words = (word.strip() for word in text.split(","))
        items = jsontext.loads(text) if text.startswith("[") else [word for word in words if word]
        return values.dump_python(values.validate_python(items), mode="json")
    except ValueError:
        return None


def must_be(key: Key, value: object) -> str:
    """The message for an invalid `value` of a key."""
    return f"must be {key.allowed}, not {shown(value)}"


def shown(value: object) -> str:
    """A value of a file, shortened for a message."""
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    text = safe_text(json.dumps(value, ensure_ascii=False, default=str))
    return text if len(text) <= 60 else f"{text[:57]}..."


def get_value(mapping: Mapping[str, Any], key: str, default: Any = None) -> Any:
    """The value of a known key in a file's content; `default` if not set."""
    for name in (key, new_name(key), *old_names(key)):
        value: Any = mapping
        for part in path_of(name):
            if not isinstance(value, Mapping) or part not in value:
                break
            value = value[part]
        else:
            return value
    return default


def set_value(mapping: M, key: str, value: Any) -> M:
    """Returns a copy of a file's content with a known key set; sections are created as needed.

    Raises:
        ConfigError: There is no such key, or its path leads through something other than a section.
    """
    changed = copy.deepcopy(mapping)
    *sections, last = path_of(key)
    inner: MutableMapping[str, Any] = changed
    for depth, part in enumerate(sections, start=1):
        if inner.get(part) is None:
            inner[part] = type(mapping)()
        inner = inner[part]
        if not isinstance(inner, MutableMapping):
            raise ConfigError((ConfigFault(".".join(sections[:depth]), "must be a section with keys in it"),))
    inner[last] = value
    return changed


def unset_value(mapping: M, key: str) -> M:
    """Returns a copy of a file's content without a known key; a section left empty is kept.

    Raises:
        ConfigError: There is no such key.
    """
    changed = copy.deepcopy(mapping)
    *sections, last = path_of(key)
    outer: Any = None
    inner: Any = changed
    for part in sections:
        outer, inner = inner, inner.get(part) if isinstance(inner, Mapping) else None
    if isinstance(inner, MutableMapping) and last in inner:
        del inner[last]
        if not inner:
            outer[sections[-1]] = None
    return changed


def path_of(key: str) -> list[str]:
    """The path to a key. The name of an entry may contain dots."""
    known, parts = _found(key)
    return parts if new_name(key) == key else key.split(".", known.name.count("."))


def _suggested() -> tuple[str, ...]:
    return tuple(name for name in known_keys() if f".{ENTRY}." not in name)


def _sections() -> tuple[str, ...]:
    parts = [name.split(".") for name in _suggested()]
    return tuple(dict.fromkeys(".".join(part[:depth]) for part in parts for depth in range(1, len(part))))


def _keys(section: type[BaseModel], prefix: str = "", chosen: str = "") -> Iterator[Key]:
    for name, info in section.model_fields.items():
        inner = info.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            yield from _keys(inner, f"{prefix}{name}.", chosen)
            continue
        values: TypeAdapter[Any] = TypeAdapter(cast("Any", Annotated[inner, info]))
        schema = values.json_schema()
        entry = schema.get("additionalProperties")
        yield Key(
            name=f"{prefix}{name}.{ENTRY}" if entry else f"{prefix}{name}",
            allowed=_allowed(entry or schema, schema.get("$defs", {})),
            default=_default_text(schema.get("default")),
            meaning=info.description or "",
            values=values,
            choices=() if entry else _choices(schema, schema.get("$defs", {})),
            is_list=any(kind.get("type") == "array" for kind in schema.get("anyOf", [schema])),
            section=chosen,
        )
    if inner := _chosen(section):
        yield from _keys(inner, f"{prefix}{ENTRY}.", _section_pattern(section, inner))


def _chosen(section: type[BaseModel]) -> type[BaseModel] | None:
    """What the sections are that a user may add under a section; None: there are none."""
    if section.model_config.get("extra") != "allow":
        return None
    inner: type[BaseModel] = get_args(get_type_hints(section)["__pydantic_extra__"])[1]
    return inner


def _choices(schema: Mapping[str, Any], defs: Mapping[str, Any]) -> tuple[str, ...]:
    if "$ref" in schema:
        return _choices(defs[schema["$ref"].rpartition("/")[2]], defs)
    if "anyOf" in schema:
        return tuple(value for kind in schema["anyOf"] for value in _choices(kind, defs))
    return ("true", "false") if schema.get("type") == "boolean" else tuple(schema.get("enum", ()))


def _allowed(schema: Mapping[str, Any], defs: Mapping[str, Any]) -> str:
    if "$ref" in schema:
        return _allowed(defs[schema["$ref"].rpartition("/")[2]], defs)
    if "enum" in schema:
        return " or ".join(schema["enum"])
    if "const" in schema:
        return str(schema["const"])
    kinds = [kind for kind in schema.get("anyOf", [schema]) if kind.get("type") != "null"]
    if any(kind.get("type") == "number" for kind in kinds):
        kinds = [kind for kind in kinds if kind.get("type") != "integer"]
    if len(kinds) == 1 and "type" in kinds[0]:
        return _KINDS[kinds[0]["type"]] + _range(kinds[0])
    *firsts, last = (_allowed(kind, defs) for kind in kinds)
    return f"{', '.join(firsts)} or {last}" if firsts else last


def _default_text(value: object) -> str:
    if value is None or isinstance(value, str):
        return value or ""
    if isinstance(value, list):
        return json.dumps(value) if value else ""
    return f"{value:.15g}" if isinstance(value, float) else shown(value)


def _range(schema: Mapping[str, Any]) -> str:
    if "exclusiveMinimum" in schema:
        return f" over {schema['exclusiveMinimum']:g}"
    if "minimum" not in schema:
        return ""
    if "maximum" in schema:
        return f" from {schema['minimum']:g} to {schema['maximum']:g}"
    return f" of at least {schema['minimum']:g}"


def _entry_value(values: TypeAdapter[Any], text: str) -> Any:
    """Parses a number, list, true, false or null if the mapping allows it, anything else as text."""
    try:
        value = jsontext.loads(text, parse_constant=_no_constant)
        values.validate_python({ENTRY: value})
    except ValueError:
        return text
    changes_on_the_way = isinstance(value, int | float) and json.dumps(value) != text  # 0.10, 1e3
    return text if isinstance(value, str) or changes_on_the_way else value


def _no_constant(text: str) -> Never:
    raise ValueError(text)  # NaN and Infinity are not valid in a file
