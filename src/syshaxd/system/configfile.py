# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Reads, creates and edits the configuration file, keeping comments and order. Writes are atomic."""

import io
import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.error import CommentMark, MarkedYAMLError, YAMLError
from ruamel.yaml.tokens import CommentToken

from syshaxd.core.config import (
    RENAMED_KEYS,
    Config,
    exposures,
    new_name,
    old_names,
    old_names_in,
    parse,
    parse_text,
    path_of,
    secret_keys,
    set_value,
    unset_value,
)
from syshaxd.core.errors import ConfigError, ConfigFault, ConflictError, SyshaxError
from syshaxd.core.launch.spec import instance_specs
from syshaxd.system import api_keys, replacing, rundir, yamltree

_SYSTEM_PATH = Path("/etc/syshax/config.yaml")
_BEYOND_THE_GROUPS_READING = stat.S_IRWXO | stat.S_IWGRP | stat.S_IXGRP
# Nested aliases expand a short text to a huge value.
_MAX_VALUES = 100_000

INITIAL = """\
# Configuration of sysHAX. syshaxd reads it when it starts, and at `syshaxctl reload`.
# `syshax config --help` lists every key; `syshax check-config` checks this file.

services:
  # The vLLM in the role `gpu`.
  gpu:
    # How it is started: `external` (not by syshaxd), or by syshaxd: `docker` (then `container.image` and `models.path`
    # are required) or `process` (then `python` and `models.path`).
    runtime: external
    host: 127.0.0.1
    port: 8001

  # The vLLM in the role `cpu`.
  cpu:
    runtime: external
    host: 127.0.0.1
    port: 8002

  # The OpenAI endpoint. The host 0.0.0.0 opens it to the network, for clients with a key (`syshaxctl keys create`).
  conductor:
    host: 127.0.0.1
    port: 8010

models:
  # The model's name in the API (vLLM's --served-model-name).
  default: default
"""


def default_path() -> Path:
    """The default file: $SYSHAX_CONFIG, else the system's if it exists (for root: always), else the user's.

    Raises:
        SyshaxError: The user has no home directory.
    """
    if named := os.environ.get("SYSHAX_CONFIG"):
        return Path(named)
    if os.geteuid() == 0 or os.path.lexists(_SYSTEM_PATH):  # unlike Path.exists, does not raise
        return _SYSTEM_PATH
    return rundir.user_folder("XDG_CONFIG_HOME", ".config") / "syshax/config.yaml"


def use_state_of_daemon(path: Path) -> None:
    """Makes this process look for state where the daemon that uses this file keeps it.

    It is for commands that show what that daemon does. The system's file is the service's, for which systemd sets the
    folder; another file is used by a daemon of the same user.
    """
    if path.absolute() == _SYSTEM_PATH and rundir.SERVICE_STATE.is_dir():
        os.environ.setdefault("STATE_DIRECTORY", os.fspath(rundir.SERVICE_STATE))


def load(path: Path) -> Config:
    """Returns the configuration in a file.

    Raises:
        ConfigError: It can't be read, is not YAML, or is not a valid configuration. Carries every fault.
    """
    return parse(read(path))


def warnings(path: Path, config: Config) -> tuple[str, ...]:
    """Warnings about a valid configuration: old names of keys, unsafe file modes, and who can reach the endpoint."""
    found = [f"{path}: {text}" for text in exposures(config, keys_exist=api_keys.have_been_made())]
    old_name = f"{path}: {{}} is now {{}}; the old name works until the next release"
    found += [old_name.format(old, RENAMED_KEYS[old]) for old in _old(path)]
    if (mode := _mode(path)) is not None:
        if mode & stat.S_IWOTH:
            found.append(f"every user of this host can write {path}, and so run programs as syshaxd: chmod o-w")
        if mode & stat.S_IROTH and (keys := secret_keys(config)):
            found.append(f"every user of this host can read {path}, which holds {', '.join(keys)}: chmod o-r")
    for name, key in (("control.tcp.key", config.control.tcp.key), ("gateway.tls.key", config.gateway.tls.key)):
        if key is not None:
            found += open_key_warnings(name, Path(key))
    return tuple(found)


def open_key_warnings(name: str, path: Path) -> tuple[str, ...]:
    """A warning if others than its owner and group have access to the file of a private key."""
    mode = _mode(path)
    if mode is None or not mode & _BEYOND_THE_GROUPS_READING:
        return ()
    return (f"{name}: {path} is accessible to others than its owner (mode {mode:04o}): chmod 0600, or 0640",)


def _old(path: Path) -> tuple[str, ...]:
    try:
        return old_names_in(read(path))
    except ConfigError:  # the code that needs the file reports it
        return ()


def _mode(path: Path) -> int | None:
    try:
        return stat.S_IMODE(path.stat().st_mode)
    except OSError:  # the code that needs the file reports it
        return None


def fault_text(path: Path, error: SyshaxError) -> str:
    """The message about an unusable file: its name, then one line for each fault."""
    return "\n  ".join([f"{path}:", *str(error).splitlines()])


def read(path: Path) -> dict[str, Any]:
    """Returns a file's content, not validated.

    Raises:
        ConfigError: It can't be read, or is not one YAML mapping.
    """
    return _plain(read_text(path))


def create(path: Path, *, force: bool) -> None:
    """Writes the initial configuration.

    Raises:
        ConflictError: The file exists and `force` is false.
        ConfigError: It can't be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise replacing.fault(f"cannot create the folder {path.parent}: {replacing.reason(error)}") from error
    with replacing.locked(path):
        if os.path.lexists(path) and not force:  # unlike Path.exists, does not raise without permission
            raise ConflictError(f"{path} already exists; --force replaces it")
        replacing.write(path, INITIAL)


def edit(path: Path, changes: Mapping[str, str | None]) -> None:
    """Sets each key to its parsed text, or removes it for None; all keys or none.

    Raises:
        ConfigError: The result would not be a valid configuration. The file is unchanged; every fault is listed.
    """
    with replacing.locked(path):
        replacing.write(path, edited(read_text(path), changes))


def edited(text: str, changes: Mapping[str, str | None]) -> str:
    """Returns the text that `edit` would write: only the named keys change, despite aliases and merge keys.

    Raises:
        ConfigError: It would not be a valid configuration. Carries every fault.
    """
    expected = _plain(text)
    content = _with_comments().load(text) or CommentedMap()
    yamltree.release(content)
    faults: dict[str, ConfigFault] = {}
    for key, value in _by_new_name(content, changes).items():
        try:
            meant = None if value is None else parse_text(key, value)
            expected = unset_value(expected, key) if value is None else set_value(expected, key, meant)
            _change(content, key, meant, unset=value is None)
        except ConfigError as error:
            faults.update((fault.key, fault) for fault in error.faults)
    new_text = _dump(content)
    try:
        instance_specs(parse_file(new_text))
    except ConfigError as error:
        faults = {fault.key: fault for fault in error.faults} | faults
    if faults:
        raise ConfigError(tuple(faults.values()))
    if _plain(new_text) != expected:
        raise replacing.fault("anchors, aliases or merge keys tie these keys to others; edit the file by hand")
    return new_text


def _by_new_name(content: Mapping[str, Any], changes: Mapping[str, str | None]) -> dict[str, str | None]:
    """The changes by present names. An old name of a changed key is removed from the file."""
    there = old_names_in(content)
    old = {name: None for key in changes for name in old_names(new_name(key)) if name in there}
    return old | {new_name(key): value for key, value in changes.items()}


def parse_file(text: str) -> Config:
    """Returns the configuration in a file's text.

    Raises:
        ConfigError: It is not YAML or not a valid configuration. Carries every fault.
    """
    return parse(_plain(text))


def _change(content: CommentedMap, key: str, value: Any, *, unset: bool) -> None:
    """Sets or removes a key; comments before the next section stay there.

    ruamel.yaml attaches them to the preceding value, which changes when a section gains or loses its last key.
    """
    *sections, last = path_of(key)
    yamltree.own(content, sections, make=False)
    comments = _take_comments_after(content, key)
    if unset:
        yamltree.remove(content, sections, last)
    else:
        inner = yamltree.own(content, sections, make=True)
        if isinstance(value, list):
            value = CommentedSeq(value)
            value.fa.set_flow_style()  # on the key's line
        inner[last] = value
    if comments:
        _put_comments_after(content, key, comments)


def _take_comments_after(content: CommentedMap, key: str) -> str:
    """Removes and returns the comments after the section that holds (or would hold) a key."""
    slots, index = _comment_slot(content, key)
    if slots is None or slots[index] is None:
        return ""
    own, _, following = slots[index].value.partition("\n")
    slots[index] = _comment(f"{own}\n") if own else None
    return str(following)


def _put_comments_after(content: CommentedMap, key: str, comments: str) -> None:
    slots, index = _comment_slot(content, key)
    if slots is not None:
        own = "" if slots[index] is None else slots[index].value.rstrip("\n")
        slots[index] = _comment(f"{own}\n{comments}")


def _comment_slot(content: CommentedMap, key: str) -> tuple[list[Any] | None, int]:
    """Where ruamel.yaml keeps the comment after a key's section: at the section's last value."""
    parent: Any = None
    name: Any = None
    node: Any = content
    for part in key.split("."):
        if not isinstance(node, CommentedMap) or part not in node:
            break
        if isinstance(node[part], CommentedMap) or node[part] is None:
            parent, name, node = node, part, node[part]
    while isinstance(node, CommentedMap | CommentedSeq) and node and not node.fa.flow_style():
        last = next(reversed(node)) if isinstance(node, CommentedMap) else len(node) - 1
        parent, name, node = node, last, node[last]
    if parent is None:
        return None, 0
    slots = parent.ca.items.setdefault(name, [None, None, None, None])
    return slots, 0 if isinstance(parent, CommentedSeq) else 2


def _comment(text: str) -> CommentToken:
    return CommentToken(text, CommentMark(0), None)


def read_text(path: Path) -> str:
    """Returns a file's text, not validated.

    Raises:
        ConfigError: It can't be read.
    """
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise replacing.missing(path) from None
    except OSError as error:
        raise replacing.fault(f"cannot be read: {replacing.reason(error)}") from error
    except UnicodeDecodeError as error:
        raise replacing.fault(f"is not UTF-8 text (byte {error.start + 1})") from error


def _plain(text: str) -> dict[str, Any]:
    """The content without shared nodes: every alias is replaced by a copy."""
    try:
        content = yamltree.unshared(YAML(typ="safe", pure=True).load(text), _MAX_VALUES)
    except YAMLError as error:
        raise replacing.fault(_yaml_problem(error)) from None
    except (ValueError, RecursionError) as error:
        raise replacing.fault(f"is not usable YAML: {error}") from None
    if content is not None and not isinstance(content, dict):
        raise replacing.fault("must be a mapping of sections such as `services:`")
    return content or {}


def _with_comments() -> YAML:
    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 4096  # no line wrapping
    yaml.indent(mapping=2, sequence=4, offset=2)
    return yaml


def _dump(content: CommentedMap) -> str:
    text = io.StringIO()
    _with_comments().dump(content, text)
    return text.getvalue()


def _yaml_problem(error: YAMLError) -> str:
    """What is wrong and where, without the surrounding lines, which may hold secrets."""
    if not isinstance(error, MarkedYAMLError) or error.problem_mark is None:
        return f"is not YAML: {getattr(error, 'reason', 'it cannot be read')}"
    problem = " ".join(part for part in (error.context, error.problem) if part)
    # A value that is not quoted and begins with * or ! is read as a name; it may be a secret.
    problem = re.sub(r"(undefined alias|for the tag) '.*'", r"\1; quote values that begin with * or !", problem)
    if r"'\t'" in problem:
        problem = "a tab; YAML is indented with spaces only"
    if duplicate := re.search(r'found duplicate key "(.*?)" with value', problem):
        problem = f"the key {duplicate[1]!r} appears twice"
    return f"line {error.problem_mark.line + 1}, column {error.problem_mark.column + 1}: {problem}"
