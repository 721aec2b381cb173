# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""TLS at the OpenAI endpoint. Renewed files are used for new connections, without a restart."""

import asyncio
import logging
import ssl
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from syshaxd.core.config import TlsConfig
from syshaxd.core.errors import ConfigError, ConfigFault
from syshaxd.core.wire.certificates import first_end_s
from syshaxd.system import configfile, replacing, smallfile

_log = logging.getLogger(__name__)
CHECK_INTERVAL_S = 10.0
_SHORT_S = 14 * 86_400.0
_WARNING_INTERVAL_S = 86_400.0
_State = tuple[tuple[int, int, int, int], ...]


@dataclass(frozen=True, slots=True)
class _Loaded:
    context: ssl.SSLContext
    ends_at_s: Mapping[str, float]
    """When the first certificate of each file ends, in Unix time."""
    state: _State
    """Of the files."""


class Tls:
    """The certificate, its key, and the CA of clients' certificates if they need one."""

    def __init__(self, config: TlsConfig, *, clock: Callable[[], float] = time.time) -> None:
        """Reads the files, which blocks.

        Args:
            config: Names them.
            clock: Unix time.

        Raises:
            ConfigError: With every fault of the files.
        """
        self._paths = {
            name: Path(path)
            for name, path in (("cert", config.cert), ("key", config.key), ("client_ca", config.client_ca))
            if path is not None
        }
        self._clock = clock
        self._warned_at_s = -_WARNING_INTERVAL_S
        self._failed: _State = ()
        self._loaded = self._load()
        # Connections begin with this one's settings; the hello of each chooses the context that is valid then.
        self.context = _context(self._paths)
        self.context.sni_callback = self._choose

    @classmethod
    def from_config(cls, config: TlsConfig) -> "Tls | None":
        """As configured; None: no TLS. Blocks; raises as the constructor."""
        return None if config.cert is None else cls(config)

    @property
    def wants_certificates(self) -> bool:
        """Clients need a certificate."""
        return "client_ca" in self._paths

    @property
    def ends_at_s(self) -> Mapping[str, float]:
        """When the first certificate of each file ends, in Unix time."""
        return self._loaded.ends_at_s

    def refresh(self) -> None:
        """Reads the files again if they have changed; unusable ones leave what is in use. Blocks."""
        state = self._state()
        if state not in {self._loaded.state, self._failed}:
            try:
                self._loaded = self._load()
                self._warned_at_s = -_WARNING_INTERVAL_S
                _log.info("gateway.tls: the renewed certificate is in use")
                for warning in configfile.open_key_warnings("gateway.tls.key", self._paths["key"]):
                    _log.warning("%s", warning)
            except ConfigError as error:
                self._failed = state
                _log.warning("gateway.tls: the changed files cannot be used; the old ones still are: %s", error)
        self._warn()

    async def run(self) -> None:
        """Refreshes periodically, for ever."""
        while True:
            await asyncio.to_thread(self.refresh)
            await asyncio.sleep(CHECK_INTERVAL_S)

    def _warn(self) -> None:
        now_s = self._clock()
        if now_s - self._warned_at_s < _WARNING_INTERVAL_S:
            return
        for name, ends_at_s in self.ends_at_s.items():
            if ends_at_s - now_s < _SHORT_S:
                self._warned_at_s = now_s
                days = (ends_at_s - now_s) / 86_400
                ends = f"ends in {days:.0f} days" if days > 0 else "has ended: clients refuse it"
                _log.warning("gateway.tls.%s: a certificate in %s %s; renew it", name, self._paths[name], ends)

    def _choose(self, connection: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> None:
        connection.context = self._loaded.context

    def _state(self) -> _State:
        return tuple(map(_file_state, self._paths.values()))

    def _load(self) -> _Loaded:
        state = self._state()
        ends = {name: first_end_s(text) for name, text in _texts(self._paths).items()}
        known = {name: end_s for name, end_s in ends.items() if end_s is not None}
        return _Loaded(_context(self._paths), known, state)


def _file_state(path: Path) -> tuple[int, int, int, int]:
    """What changes when a file does; zeros: it is not there."""
    try:
        found = path.stat()
    except OSError:
        return 0, 0, 0, 0
    return found.st_ino, found.st_mtime_ns, found.st_size, found.st_mode


def _texts(paths: Mapping[str, Path]) -> Mapping[str, str]:
    texts, faults = {}, []
    for name, path in paths.items():
        try:
            texts[name] = smallfile.read(path).decode("utf-8", "replace")
        except OSError as error:
            faults.append(ConfigFault(f"gateway.tls.{name}", f"cannot read {path}: {replacing.reason(error)}"))
    if faults:
        raise ConfigError(tuple(faults))
    return texts


def _context(paths: Mapping[str, Path]) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    try:
        # An empty password: a key that needs one must not ask at the terminal.
        context.load_cert_chain(paths["cert"], paths["key"], password="")
    except (OSError, ValueError) as error:
        problem = f"{paths['cert']} and {paths['key']} are not a PEM certificate and its key without a password: "
        raise ConfigError((ConfigFault("gateway.tls.cert", problem + _reason(error)),)) from None
    if "client_ca" in paths:
        try:
            context.load_verify_locations(paths["client_ca"])
        except (OSError, ValueError) as error:
            problem = f"{paths['client_ca']} holds no PEM certificates: {_reason(error)}"
            raise ConfigError((ConfigFault("gateway.tls.client_ca", problem),)) from None
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def _reason(error: Exception) -> str:
    return getattr(error, "reason", None) or str(error) or type(error).__name__
