# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Redacts secrets: the one rule for logs, errors, events, status and printed settings.

Most secrets are recognized by name; those in texts (command lines, URLs, JSON, headers) by form.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

HIDDEN = "(hidden)"
_PATHS = frozenset(("control.tcp.key", "gateway.tls.key"))
"""Configuration keys that hold file names, despite their own names."""
_SECRET_WORD = re.compile(r"secret|passw(?:or)?d|passphrase|credential|apikey|bearer|authorization")
_LAST_WORD = re.compile(r".*(?:token|secret|pwd)|key|auth|pat|cookie|pass|creds?|webhook|dsn")
_KEYS = frozenset(("api", "access", "auth", "private", "signing", "encryption", "hf"))
"""Plurals that mean secrets; others, such as `max-tokens`, do not."""
# Each pattern starts at few places and has bounded lookahead: hostile text costs no more than any other.
_BEGIN = r"(?<![\w.-])"
_VALUE = re.compile(
    r"""\(hidden\)|'[^']{0,1000}'|"(?:[^"\\]|\\.){0,1000}"|\[[^\]]{0,500}\]"""
    r"""|["'\[]?[^\s&'",;)\]}]+"""
)
_URL = re.compile(rf"{_BEGIN}([a-zA-Z][a-zA-Z0-9+.-]{{1,30}}://)([^\s/?#'\"]{{0,1000}})@")
_MIN_VALUE = 6
# What stands before a value. The value is read only if the name means a secret: that of another may hold one.
_NAMED = (
    re.compile(rf"{_BEGIN}-{{0,2}}(?P<name>[A-Za-z_][\w.-]{{0,99}})="),
    re.compile(r"""(?P<quote>["'])(?P<name>[\w.-]{1,99})(?P=quote)\s{0,9}:\s{0,9}"""),
    re.compile(rf"{_BEGIN}--(?P<name>[\w.-]{{1,99}})\s{{1,9}}(?!-)"),
    # a command line as a list
    re.compile(r"""(?P<quote>["'])--(?P<name>[\w.-]{1,99})(?P=quote),\s{0,9}(?!["']-)"""),
)
_NAME = re.compile(r"[A-Za-z_][\w.-]*")
_BEARER = re.compile(r"\b(Bearer\s{1,9})(?!\(hidden\))[^\s'\"]+", re.IGNORECASE)
_KNOWN_FORMS = re.compile(
    rf"{_BEGIN}(?:sk-syshax-[\w-]{{16,}}|sk-(?=[\w-]{{0,99}}\d)[\w-]{{16,}}|hf_[A-Za-z0-9]{{20,}}|gh[opsu]_[A-Za-z0-9]{{20,}}"
    r"|github_pat_\w{20,}|AKIA[0-9A-Z]{16}|eyJ[\w-]{10,}\.[\w-]+\.[\w-]*)"
)


def is_secret(name: str) -> bool:
    """Whether a name (key, flag or variable) such as `services.cpu.env.HF_TOKEN` means a secret, or a part of one."""
    return name not in _PATHS and any(map(_means_secret, name.split(".")))


def _means_secret(part: str) -> bool:
    words = [word for word in re.split(r"[-_]", _in_words(part)) if word and not word.isdigit()]
    if not words:
        return False
    last, others = words[-1], frozenset(words[:-1])
    if last in {"keys", "tokens"}:
        return not others.isdisjoint(_KEYS)
    if last in {"path", "file", "dir", "id"} or "public" in others:
        return False
    return bool(_LAST_WORD.fullmatch(last) or any(_SECRET_WORD.search(word) for word in words))


def _in_words(name: str) -> str:
    """`apiKey` as `api-key`."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", name).lower()


def is_private(key: str) -> bool:
    """Whether a configuration value must not leave this host's files; any environment variable may be a secret."""
    return "env" in key.split(".") or is_secret(key)


def safe_text(text: str, values: Iterable[str] = ()) -> str:
    """The text without secrets: those that are recognizable by form, and these values in any form."""
    for value in values:
        text = text.replace(value, HIDDEN)
    text = _URL.sub(rf"\1{HIDDEN}@", text)
    for pattern in _NAMED:
        text = _hide_values(pattern, text)
    text = _BEARER.sub(rf"\1{HIDDEN}", text)
    return _KNOWN_FORMS.sub(HIDDEN, text)


def _hide_values(pattern: re.Pattern[str], text: str) -> str:
    shown, end = "", 0
    for value in _values(pattern, text):
        shown += text[end : value.start()] + HIDDEN
        end = value.end()
    return shown + text[end:]


def _values(pattern: re.Pattern[str], text: str) -> Iterator[re.Match[str]]:
    """The values of secret names, in order, none in another."""
    end = 0
    for found in pattern.finditer(text):
        if found.start() >= end and is_secret(found["name"]) and (value := _VALUE.match(text, found.end())):
            end = value.end()
            yield value


def secret_values(argv: Iterable[str], env: Iterable[tuple[str, str]]) -> tuple[str, ...]:
    """The secrets that a server was given, long ones first; those that are too short to be told from other words not.

    Args:
        argv: Its command line.
        env: Its variables.
    """
    words, env = list(argv), list(env)
    found = {value for name, value in env if is_secret(name)}
    found |= {word for word, shown in zip(words, safe_words(words), strict=True) if shown == HIDDEN}
    for text in (*words, *(value for _, value in env)):
        found |= {value[0].strip("\"'[]") for pattern in _NAMED for value in _values(pattern, text)}
        found |= {part for url in _URL.finditer(text) for part in (url[2], url[2].partition(":")[2])}
    return tuple(sorted((value for value in found if len(value) >= _MIN_VALUE), key=len, reverse=True))


def safe_words(words: Iterable[str]) -> list[str]:
    """A command line without secrets; a secret flag may have several values."""
    shown: list[str] = []
    hides = False
    for word in words:
        if word.startswith("--"):
            flag, given, _ = word.partition("=")
            hides = is_secret(flag.lstrip("-"))
            shown.append(f"{flag}={HIDDEN}" if hides and given else safe_text(word))
            hides = hides and not given
        elif hides:
            shown.append(HIDDEN)
        else:
            name, given, _ = word.partition("=")  # as an environment variable is given
            shown.append(f"{name}={HIDDEN}" if given and _NAME.fullmatch(name) and is_secret(name) else safe_text(word))
    return shown


def safe_value(name: str, value: Any) -> Any:
    """The value of a name, as in a file or JSON, without secrets."""
    if value is None or isinstance(value, bool):
        return value
    if is_secret(name):
        return HIDDEN
    if isinstance(value, Mapping):
        return {key: safe_value(f"{name}.{key}", inner) for key, inner in value.items()}
    if isinstance(value, str):
        return safe_text(value)
    if isinstance(value, list | tuple):
        if all(isinstance(item, str) for item in value):
            return safe_words(value)
        return [safe_value(name, item) for item in value]
    return value
