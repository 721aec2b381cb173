# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""What signals and operators request of the daemon: to stop, to restart, to reload."""

import asyncio
import logging
import signal

from syshaxd.core.errors import SyshaxError
from syshaxd.reconfigure import Reconfigurer
from syshaxd.system import sdnotify

_log = logging.getLogger(__name__)


class Orders:
    """What signals and operators have requested of this process."""

    def __init__(self) -> None:
        """Installs the signal handlers."""
        self.stop = asyncio.Event()
        self.hurry = asyncio.Event()
        self.leave_running: bool | None = None
        """Whether to leave instances running; None: as configured."""
        self.restart = False
        """Whether another daemon starts at once."""
        self._reloads: set[asyncio.Task[None]] = set()
        self._loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            self._loop.add_signal_handler(number, self.on_stop, number.name)
        self._loop.add_signal_handler(signal.SIGUSR1, self._on_restart)
        self._loop.add_signal_handler(
            signal.SIGHUP, _log.info, "SIGHUP ignored: still starting, with the file as it was"
        )

    def on_stop(self, who: str, *, leave_running: bool | None = None) -> None:
        """A request to stop the daemon; a second one stops it at once."""
        if self.stop.is_set():
            _log.info("%s again: stopping at once", who)
            self.hurry.set()
            return
        self.leave_running = leave_running
        rest = "; instances keep running" if leave_running else ""
        _log.info("%s: stopping after the running requests%s; a second one stops at once", who, rest)
        self.stop.set()

    def _on_restart(self) -> None:
        """The service is being restarted (RestartKillSignal=)."""
        self.restart = True
        self.on_stop("SIGUSR1", leave_running=True)

    def reload_with(self, reconfigurer: Reconfigurer) -> None:
        """Makes SIGHUP apply the configuration file."""
        self._loop.add_signal_handler(signal.SIGHUP, self._on_reload, reconfigurer)

    def _on_reload(self, reconfigurer: Reconfigurer) -> None:
        task = self._loop.create_task(_reload(reconfigurer))
        self._reloads.add(task)
        task.add_done_callback(self._reloads.discard)


async def _reload(reconfigurer: Reconfigurer) -> None:
    """Applies the file and notifies systemd; on an error, logs it and keeps the running configuration."""
    sdnotify.reloading()
    try:
        await reconfigurer.apply()
    except SyshaxError as error:
        sdnotify.notify(f"STATUS=the last reload failed: {str(error).splitlines()[0]}")
    except Exception:  # noqa: BLE001 - whatever it is: what runs, runs on
        _log.exception("the reload failed because of a fault in syshaxd")
        sdnotify.notify("STATUS=the last reload failed because of a fault in syshaxd: see the log")
    finally:
        sdnotify.notify("READY=1")
