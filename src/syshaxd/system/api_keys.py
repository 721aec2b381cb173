# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""The file that holds the API keys of clients, as hashes. Changes are atomic and take effect at once."""

import os
import secrets
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from syshaxd.core.config.api_keys import PREFIX, ApiKey, KeyRing, key_text, made, parse_keys, sha256
from syshaxd.core.errors import BadRequestError, ConfigError, ConflictError, NotFoundError, SyshaxError
from syshaxd.system import replacing, rundir, smallfile

_MODE = 0o600
_KEY_BYTES = 32


def default_path() -> Path:
    """The file of a daemon with this environment. It need not exist."""
    return rundir.state_dir() / "api_keys"


def have_been_made() -> bool:
    """Whether there is such a file; false if that cannot be seen, which ApiKeys reports."""
    try:
        return default_path().exists()
    except OSError:
        return False


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key that was made just now."""

    secret: str
    """The key itself, which is stored nowhere."""
    key: ApiKey


class ApiKeys:
    """The keys, and their file. Each method but `find` blocks; each raises SyshaxError if the file can't be used."""

    def __init__(self, path: Path | None = None, *, clock: Callable[[], float] = time.time) -> None:
        """Reads the file.

        Args:
            path: The file; it need not exist. None: there is none, and keys can't be made.
            clock: Unix time.
        """
        self.path = path
        self._clock = clock
        self._ring: KeyRing | None = None
        if path is not None:
            self._ring = _read(path)

    @property
    def exist(self) -> bool:
        """Keys have been made, even if all were revoked or have expired: requests need one from then on."""
        return self._ring is not None

    def find(self, given: str) -> ApiKey:
        """The key that a client gave. Raises UnauthorizedError: it is not valid."""
        return (self._ring or KeyRing()).find(given, self._clock())

    def named(self, name: str) -> ApiKey:
        """The key of this name. Raises UnauthorizedError: it is not valid any more."""
        return (self._ring or KeyRing()).named(name, self._clock())

    def list(self) -> Sequence[ApiKey]:
        """All keys, also those that have expired."""
        if self.path is not None:
            # A file that has gone must not open the endpoint.
            self._ring = _read(self.path) or (None if self._ring is None else KeyRing())
        return () if self._ring is None else self._ring.keys

    def create(self, name: str, **fields: Any) -> NewKey:
        """Makes a key.

        Args:
            name: Its name, which no other key has.
            fields: As in `ApiKey`.

        Raises:
            BadRequestError: It would have expired already.
            ConfigError: With all faults of the fields.
            ConflictError: Another key has the name.
        """
        secret = PREFIX + secrets.token_urlsafe(_KEY_BYTES)
        key = made(**fields, name=name, sha256=sha256(secret), created_at_s=self._clock())
        if key.expires_at_s is not None and key.expires_at_s <= self._clock():
            raise BadRequestError(f"the API key {name} would have expired already")

        def add(keys: Sequence[ApiKey]) -> Sequence[ApiKey]:
            if any(other.name == name for other in keys):
                raise ConflictError(f"an API key named {name} already exists; revoke it first, or choose another name")
            return (*keys, key)

        self._change(add)
        return NewKey(secret, key)

    def revoke(self, name: str) -> None:
        """Makes a key invalid.

        Raises:
            NotFoundError: There is no key of this name.
        """

        def remove(keys: Sequence[ApiKey]) -> Sequence[ApiKey]:
            if all(key.name != name for key in keys):
                others = f"; available: {', '.join(key.name for key in keys)}" if keys else "; none exist"
                raise NotFoundError(f"there is no API key {name}{others}")
            return [key for key in keys if key.name != name]

        self._change(remove)

    def _change(self, change: Callable[[Sequence[ApiKey]], Sequence[ApiKey]]) -> None:
        if self.path is None:
            raise ConflictError("this daemon keeps no API keys")
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise SyshaxError(f"{self.path}: {replacing.reason(error)}") from error
        with _named(self.path), replacing.locked(self.path):
            ring = _read(self.path)  # another program may have changed it
            keys = change(() if ring is None else ring.keys)
            replacing.write(self.path, key_text(keys), new_mode=_MODE)
        self._ring = KeyRing(keys)


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Faults of the file as a whole get its name."""
    try:
        yield
    except ConfigError as error:
        raise SyshaxError(f"{path}: {error}") from None


def _read(path: Path) -> KeyRing | None:
    """The keys in a file; None: there is no file."""
    try:
        with smallfile.opened(path) as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            content = file.read(smallfile.MOST_BYTES)
    except FileNotFoundError:
        return None
    except OSError as error:
        text = f"{path}: {replacing.reason(error)}; XDG_STATE_HOME chooses another folder"
        raise SyshaxError(text) from error
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise SyshaxError(f"{path} holds API keys and is open to other users (mode {mode:04o}): chmod 0600 {path}")
    try:
        return KeyRing(parse_keys(content.decode()))
    except (ConfigError, ValueError) as error:
        raise SyshaxError(f"{path} does not hold API keys: {error}; fix or remove it") from None
