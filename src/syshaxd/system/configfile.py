# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""The configuration file: read, made, and edited with its comments and order kept. A write is whole or not at all."""

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

from syshaxd.core.config import Config, exposures, parse, parse_text, path_of, secret_keys, set_value, unset_value
from syshaxd.core.errors import ConfigError, ConfigFault, ConflictError, SyshaxError
from syshaxd.core.launch.spec import instance_specs
from syshaxd.system import rundir, yamltree

_SYSTEM_PATH = Path("/etc/syshax/config.yaml")
_NEW_FILE_MODE = 0o640  # it may hold tokens for the instances' environments
_BEYOND_THE_GROUPS_READING = stat.S_IRWXO | stat.S_IWGRP | stat.S_IXGRP
_LOCK_TIMEOUT_S = 10.0
_LOCK_PAUSE_S = 0.02
_REMEDIES = {
    errno.EROFS: "a service may write where ReadWritePaths= of its unit says, a container into mounts without `ro`",
    errno.ENOSPC: "make some room on that disk",
}
# Aliases of aliases make a short text large.
_MAX_VALUES = 100_000

INITIAL = """\
# Configuration of sysHAX. syshaxd reads it when it starts, and at `syshaxctl reload`.
# `syshax config --help` lists every key; `syshax check-config` checks this file.

services:
  # The vLLM in the role `gpu`.
  gpu:
    # Who starts it: `external` (somebody else), or syshaxd: `docker` (then `container.image` and `models.path` are
    # needed) or `process` (then `python` and `models.path`).
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
    """The file that is meant when none is named: $SYSHAX_CONFIG, else the system's (root: always), else the user's.

    Raises:
        SyshaxError: The user has no home.
    """
    if named := os.environ.get("SYSHAX_CONFIG"):
        return Path(named)
    if os.geteuid() == 0 or os.path.lexists(_SYSTEM_PATH):  # unlike Path.exists, it does not raise
        return _SYSTEM_PATH
    return rundir.user_folder("XDG_CONFIG_HOME", ".config") / "syshax/config.yaml"


def load(path: Path) -> Config:
    """Returns the configuration in a file.

    Raises:
        ConfigError: It can't be read, is not YAML, or is not a usable configuration: every fault at once.
    """
    return parse(read(path))


def warnings(path: Path, config: Config) -> tuple[str, ...]:
    """What is usable, and not safe: who may read or write the files, and who can reach the endpoint."""
    found = [f"{path}: {text}" for text in exposures(config)]
    if (mode := _mode(path)) is not None:
        if mode & stat.S_IWOTH:
            found.append(f"{path} can be written by everybody on this host, who so runs programs as syshaxd: chmod o-w")
        if mode & stat.S_IROTH and (keys := secret_keys(config)):
            found.append(f"{path} can be read by everybody on this host, and holds {', '.join(keys)}: chmod o-r")
    key = config.control.tcp.key
    if key is not None and (mode := _mode(Path(key))) is not None and mode & _BEYOND_THE_GROUPS_READING:
        found.append(f"control.tcp.key: {key} is open to others than its owner (mode {mode:04o}): chmod 0600, or 0640")
    return tuple(found)


def _mode(path: Path) -> int | None:
    try:
        return stat.S_IMODE(path.stat().st_mode)
    except OSError:  # who needs it says so
        return None


def fault_text(path: Path, error: SyshaxError) -> str:
    """What a program says of a file that it can't use: its name, and below it a line for each fault."""
    return "\n  ".join([f"{path}:", *str(error).splitlines()])


def read(path: Path) -> dict[str, Any]:
    """Returns a file's content, unchecked.

    Raises:
        ConfigError: It can't be read, or is not one YAML mapping.
    """
    return _plain(read_text(path))


def create(path: Path, *, force: bool) -> None:
    """Writes the initial configuration.

    Raises:
        ConflictError: The file exists, and `force` is not given.
        ConfigError: It can't be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _fault(f"cannot make the folder {path.parent}: {_reason(error)}") from error
    with locked(path):
        if os.path.lexists(path) and not force:  # unlike Path.exists, it does not raise where this user may not look
            raise ConflictError(f"{path} exists already; --force replaces it")
        write(path, INITIAL)


def edit(path: Path, changes: Mapping[str, str | None]) -> None:
    """Sets each key to what its text means, or with None leaves it to its default; all of it or nothing.

    Raises:
        ConfigError: The file would not be a usable configuration afterwards. It is as before, and every fault is named.
    """
    with locked(path):
        write(path, edited(read_text(path), changes))


def edited(text: str, changes: Mapping[str, str | None]) -> str:
    """Returns a file's text as `edit` would make it: only the named keys change, whatever aliases and merge keys do.

    Raises:
        ConfigError: It would not be a usable configuration. Every fault is named.
    """
    expected = _plain(text)
    content = _with_comments().load(text) or CommentedMap()
    yamltree.release(content)
    faults: dict[str, ConfigFault] = {}
    for key, value in changes.items():
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
        raise _fault("its anchors, aliases or merge keys don't let these keys be changed alone; edit it by hand")
    return new_text


def parse_file(text: str) -> Config:
    """Returns the configuration in a file's text.

    Raises:
        ConfigError: It is not YAML, or not a usable configuration: every fault at once.
    """
    return parse(_plain(text))


def _change(content: CommentedMap, key: str, value: Any, *, unset: bool) -> None:
    """Sets a key, or takes it out; comments that stand before the next section stay there.

    ruamel.yaml hangs them on the value before them: another one, once a section gets or loses its last key.
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
            value.fa.set_flow_style()  # on the key's own line
        inner[last] = value
    if comments:
        _put_comments_after(content, key, comments)


def _take_comments_after(content: CommentedMap, key: str) -> str:
    """Removes the comments that follow the section in which a key is (or would be), and returns them."""
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
    """Where ruamel.yaml keeps the comment that follows the section of a key: at the section's last value."""
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
    """Replaces the file in one step, and keeps its mode and owner.

    Raises:
        ConfigError: It can't be written. It is as before.
    """
    Draft(path, text).commit()


class Draft:
    """A text that is on the disk, beside the file that it is to replace: what can fail has been tried."""

    def __init__(self, path: Path, text: str) -> None:
        """Writes the text into a file of its own.

        Raises:
            ConfigError: The file can't be replaced: it is as before, and nothing is left.
        """
        try:
            _check_link(path)
            self._path = path.resolve()  # a symbolic link stays one
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
        """Puts the text in the file's place.

        Raises:
            ConfigError: It can't be done after all. The file is as before, and nothing is left.
        """
        try:
            self._draft.replace(self._path)
            _sync_folder(self._path.parent)
        except OSError as error:
            self.discard()
            raise _not_written(self._path, error) from error

    def discard(self) -> None:
        """Leaves the file as it is."""
        with suppress(OSError):  # there is an earlier error to tell, or none that matters
            self._draft.unlink()


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Keeps other writers away: whoever reads the file in order to change it does so inside.

    The folder is what is locked: nothing is left there, and the file itself is replaced each time.

    Raises:
        ConfigError: Somebody else keeps it for too long.
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
                raise _fault("another program has been changing it for long (`lsof +d` of its folder tells which)")
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
    """A link that somebody else has put there could have root replace any file.

    Raises:
        ConfigError: It is one.
    """
    try:
        info = path.lstat()
    except FileNotFoundError:
        return
    if stat.S_ISLNK(info.st_mode) and info.st_uid not in (0, os.geteuid()):
        raise _fault(f"cannot be written: it is a symbolic link that belongs to another user (uid {info.st_uid})")


def _check_replaceable(path: Path) -> None:
    """Finds what lets a file be made beside another, but not put into its place.

    Raises:
        ConfigError: It is so.
    """
    mounts = Path("/proc/self/mountinfo").read_bytes().splitlines()
    if any(_unescaped(line.split(b" ")[4]) == os.fsencode(path) for line in mounts):
        raise _fault("cannot be replaced: it is a mount of its own; mount the folder that it is in instead")
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
    for owner in (old.st_uid, -1):  # only root may give a file away; its group is given to whoever is in it
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
    """Returns a file's text, unchecked.

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
    """The content, in which nothing is shared: an alias is as if what it stands for had been written again."""
    try:
        content = yamltree.unshared(YAML(typ="safe", pure=True).load(text), _MAX_VALUES)
    except YAMLError as error:
        raise _fault(_yaml_problem(error)) from None
    except (ValueError, RecursionError) as error:
        raise _fault(f"is not YAML that can be used: {error}") from None
    if content is not None and not isinstance(content, dict):
        raise _fault("must be a mapping of sections such as `services:`")
    return content or {}


def _with_comments() -> YAML:
    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 4096  # long texts stay on their line
    yaml.indent(mapping=2, sequence=4, offset=2)
    return yaml


def _dump(content: CommentedMap) -> str:
    text = io.StringIO()
    _with_comments().dump(content, text)
    return text.getvalue()


def _yaml_problem(error: YAMLError) -> str:
    """What is wrong and where, without the lines around it: they may hold secrets."""
    if not isinstance(error, MarkedYAMLError) or error.problem_mark is None:
        return f"is not YAML: {getattr(error, 'reason', 'it cannot be read')}"
    problem = " ".join(part for part in (error.context, error.problem) if part)
    if r"'\t'" in problem:
        problem = "a tab; YAML takes only spaces to indent"
    if duplicate := re.search(r'found duplicate key "(.*?)" with value', problem):
        problem = f"the key {duplicate[1]!r} is there twice"
    return f"line {error.problem_mark.line + 1}, column {error.problem_mark.column + 1}: {problem}"


def _reason(error: OSError) -> str:
    """What the system says, and what helps; where it is about rights, also whose."""
    if not isinstance(error, PermissionError):
        hint = _REMEDIES.get(error.errno or 0)
        return "; ".join(filter(None, (error.strerror or str(error), hint)))
    try:
        user = pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        user = str(os.geteuid())
    return f"{error.strerror} for the user {user}; give it the right, or use `sudo`"


def _missing(path: Path) -> ConfigError:
    return _fault(f"there is no such file; `syshax init --config {path}` makes one")


def _fault(problem: str) -> ConfigError:
    return ConfigError((ConfigFault("", problem),))
