# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Reads, creates and edits the configuration file, keeping comments and order. Writes are atomic."""

import errno
import fcntl
import io
import os
import pwd
import re
import stat
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
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
from syshaxd.system import rundir, yamltree

_SYSTEM_PATH = Path("/etc/syshax/config.yaml")
_NEW_FILE_MODE = 0o640  # the instances' environments may hold tokens
_BEYOND_THE_GROUPS_READING = stat.S_IRWXO | stat.S_IWGRP | stat.S_IXGRP
_LOCK_TIMEOUT_S = 10.0
_LOCK_PAUSE_S = 0.02
_REMEDIES = {
    errno.EROFS: "a service may write to ReadWritePaths= of its unit, a container to mounts without `ro`",
    errno.ENOSPC: "free some space on that disk",
}
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

  # The OpenAI endpoint. The host 0.0.0.0 opens it to the network.
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


def load(path: Path) -> Config:
    """Returns the configuration in a file.

    Raises:
        ConfigError: It can't be read, is not YAML, or is not a valid configuration. Carries every fault.
    """
    return parse(read(path))


def warnings(path: Path, config: Config) -> tuple[str, ...]:
    """Warnings about a valid configuration: old names of keys, unsafe file modes, and who can reach the endpoint."""
    found = [f"{path}: {text}" for text in exposures(config)]
    old_name = f"{path}: {{}} is now {{}}; the old name works until the next release"
    found += [old_name.format(old, RENAMED_KEYS[old]) for old in _old(path)]
    if (mode := _mode(path)) is not None:
        if mode & stat.S_IWOTH:
            found.append(f"every user of this host can write {path}, and so run programs as syshaxd: chmod o-w")
        if mode & stat.S_IROTH and (keys := secret_keys(config)):
            found.append(f"every user of this host can read {path}, which holds {', '.join(keys)}: chmod o-r")
    key = config.control.tcp.key
    if key is not None and (mode := _mode(Path(key))) is not None and mode & _BEYOND_THE_GROUPS_READING:
        found.append(
            f"control.tcp.key: {key} is accessible to others than its owner (mode {mode:04o}): chmod 0600, or 0640"
        )
    return tuple(found)


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
        raise _fault(f"cannot create the folder {path.parent}: {_reason(error)}") from error
    with locked(path):
        if os.path.lexists(path) and not force:  # unlike Path.exists, does not raise without permission
            raise ConflictError(f"{path} already exists; --force replaces it")
        write(path, INITIAL)


def edit(path: Path, changes: Mapping[str, str | None]) -> None:
    """Sets each key to its parsed text, or removes it for None; all keys or none.

    Raises:
        ConfigError: The result would not be a valid configuration. The file is unchanged; every fault is listed.
    """
    with locked(path):
        write(path, edited(read_text(path), changes))


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
        raise _fault("anchors, aliases or merge keys tie these keys to others; edit the file by hand")
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


def write(path: Path, text: str) -> None:
    """Replaces the file atomically, keeping its mode and owner.

    Raises:
        ConfigError: It can't be written. The file is unchanged.
    """
    Draft(path, text).commit()


class Draft:
    """A replacement text, already on disk next to the file: everything that can fail has been tried."""

    def __init__(self, path: Path, text: str) -> None:
        """Writes the text to a temporary file.

        Raises:
            ConfigError: The file can't be replaced. It is unchanged and no temporary file remains.
        """
        try:
            _check_link(path)
            self._path = path.resolve()  # keeps a symbolic link
            _check_replaceable(self._path)
            descriptor, name = tempfile.mkstemp(dir=self._path.parent, prefix=f".{self._path.name}.")
            self._draft = Path(name)
            try:
                with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                    _take_over_mode(self._path, file.fileno())
                    file.write(text)
                    file.flush()
                    os.fsync(file.fileno())
            except BaseException:
                self.discard()
                raise
        except OSError as error:
            raise _not_written(path, error) from error

    def commit(self) -> None:
        """Moves the text into the file's place.

        Raises:
            ConfigError: It failed after all. The file is unchanged and no temporary file remains.
        """
        try:
            self._draft.replace(self._path)
            _sync_folder(self._path.parent)
        except OSError as error:
            self.discard()
            raise _not_written(self._path, error) from error

    def discard(self) -> None:
        """Discards the text; the file is unchanged."""
        with suppress(OSError):  # an earlier error matters more, or none does
            self._draft.unlink()


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Locks out other writers; hold it around reading and changing the file.

    Locks the folder, since the file itself is replaced at each write.

    Raises:
        ConfigError: Another process holds the lock for too long.
    """
    try:
        descriptor = os.open(path.resolve().parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise _missing(path) from None
    except OSError as error:
        raise _fault(f"cannot be locked: {_reason(error)}") from error
    try:
        give_up_at_s = time.monotonic() + _LOCK_TIMEOUT_S
        while not _lock(descriptor):
            if time.monotonic() > give_up_at_s:
                raise _fault("another program keeps it locked (`lsof +d` of its folder shows which)")
            time.sleep(_LOCK_PAUSE_S)
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _check_link(path: Path) -> None:
    """Another user's link could make root replace any file.

    Raises:
        ConfigError: It is such a link.
    """
    try:
        info = path.lstat()
    except FileNotFoundError:
        return
    if stat.S_ISLNK(info.st_mode) and info.st_uid not in (0, os.geteuid()):
        raise _fault(f"cannot be written: it is a symbolic link that belongs to another user (uid {info.st_uid})")


def _check_replaceable(path: Path) -> None:
    """Checks for what allows creating a file next to another but not replacing it.

    Raises:
        ConfigError: The file can't be replaced.
    """
    mounts = Path("/proc/self/mountinfo").read_bytes().splitlines()
    if any(_unescaped(line.split(b" ")[4]) == os.fsencode(path) for line in mounts):
        raise _fault("cannot be replaced: it is itself a mount; mount its folder instead")
    folder, us = path.parent.stat(), os.geteuid()
    with suppress(FileNotFoundError):
        if folder.st_mode & stat.S_ISVTX and us not in (0, folder.st_uid, path.stat().st_uid):
            raise _fault(f"cannot be replaced: it belongs to another user, and {path.parent} is sticky (chmod -t)")


def _unescaped(name: bytes) -> bytes:
    return re.sub(rb"\\([0-7]{3})", lambda found: bytes((int(found[1], 8),)), name)


def _not_written(path: Path, error: OSError) -> ConfigError:
    return _fault(f"cannot be written in the folder {path.parent}: {_reason(error)}")


def _take_over_mode(path: Path, descriptor: int) -> None:
    try:
        old = path.stat()
    except FileNotFoundError:
        os.fchmod(descriptor, _NEW_FILE_MODE)
        return
    new = os.fstat(descriptor)
    for owner in (old.st_uid, -1):  # only root may change the owner; the group can be set by its members
        if (old.st_uid, old.st_gid) != (new.st_uid, new.st_gid):
            with suppress(PermissionError):
                os.fchown(descriptor, owner, old.st_gid)
                break
    os.fchmod(descriptor, old.st_mode & 0o7777)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_text(path: Path) -> str:
    """Returns a file's text, not validated.

    Raises:
        ConfigError: It can't be read.
    """
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise _missing(path) from None
    except OSError as error:
        raise _fault(f"cannot be read: {_reason(error)}") from error
    except UnicodeDecodeError as error:
        raise _fault(f"is not UTF-8 text (byte {error.start + 1})") from error


def _plain(text: str) -> dict[str, Any]:
    """The content without shared nodes: every alias is replaced by a copy."""
    try:
        content = yamltree.unshared(YAML(typ="safe", pure=True).load(text), _MAX_VALUES)
    except YAMLError as error:
        raise _fault(_yaml_problem(error)) from None
    except (ValueError, RecursionError) as error:
        raise _fault(f"is not usable YAML: {error}") from None
    if content is not None and not isinstance(content, dict):
        raise _fault("must be a mapping of sections such as `services:`")
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
    if r"'\t'" in problem:
        problem = "a tab; YAML is indented with spaces only"
    if duplicate := re.search(r'found duplicate key "(.*?)" with value', problem):
        problem = f"the key {duplicate[1]!r} appears twice"
    return f"line {error.problem_mark.line + 1}, column {error.problem_mark.column + 1}: {problem}"


def _reason(error: OSError) -> str:
    """The system's reason and a remedy; for missing permissions also the user."""
    if not isinstance(error, PermissionError):
        hint = _REMEDIES.get(error.errno or 0)
        return "; ".join(filter(None, (error.strerror or str(error), hint)))
    try:
        user = pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        user = str(os.geteuid())
    return f"{error.strerror} for the user {user}; grant the permission, or use `sudo`"


def _missing(path: Path) -> ConfigError:
    return _fault(f"no such file; `syshax init --config {path}` creates it")


def _fault(problem: str) -> ConfigError:
    return ConfigError((ConfigFault("", problem),))
