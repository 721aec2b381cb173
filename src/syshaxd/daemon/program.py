# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""syshaxd: reads the configuration, builds the parts by hand, runs them, and stops them in order.

Exit codes: 0 stopped as requested, 1 refused or failed, 2 usage.
"""

import asyncio
import faulthandler
import gc
import logging
import os
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path

import click

from syshaxd import __version__
from syshaxd.core.config import Config, enabled_services
from syshaxd.core.errors import SyshaxError
from syshaxd.core.launch.bound import Bound
from syshaxd.daemon.composition import build
from syshaxd.daemon.orders import Orders
from syshaxd.gateway.tls import Tls
from syshaxd.instances import binder
from syshaxd.system import configfile, descriptors, logs, planned_gpus, sdnotify
from syshaxd.system.terminal import Program

_log = logging.getLogger(__name__)
_LOG_LEVELS = ("debug", "info", "warning", "error")


@click.command(cls=Program, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--config",
    "config_path",
    type=click.Path(path_type=Path, readable=False),
    metavar="FILE",
    help="Configuration file. Unset: $SYSHAX_CONFIG, else the system's or your own.",
)
@click.option("--check-config", is_flag=True, help="Check the configuration and exit; exit code 0 if it is valid.")
@click.option(
    "--log-level", type=click.Choice(_LOG_LEVELS), default="info", show_default=True, help="Lowest level to log."
)
@click.version_option(__version__, prog_name="syshaxd")
def main(config_path: Path | None, log_level: str, *, check_config: bool) -> None:
    """Runs sysHAX in the foreground: supervises the instances and serves the OpenAI API.

    SIGINT and SIGTERM stop it after the running requests; a second one stops it at once. SIGUSR1 stops only the daemon:
    instances keep running, and the next daemon adopts them. SIGHUP applies the configuration file.

    \b
    Examples:
      syshaxd --check-config
      syshaxd --config ./syshax.yaml --log-level debug
    """  # noqa: D301 - \b keeps click from joining the lines
    logs.open_standard_streams()
    # What the daemon and its instances create, no other user may write to, and its owner may use.
    os.umask((os.umask(0o077) | 0o022) & 0o077)
    faulthandler.enable()  # on the watchdog's SIGABRT, shows where the daemon hung
    logs.setup(log_level)
    try:
        path = config_path or configfile.default_path()
    except SyshaxError as error:
        raise click.ClickException(str(error)) from None
    if check_config:
        configfile.use_state_of_daemon(path)
    try:
        text = configfile.read_text(path)
        config = configfile.parse_file(text)
        Tls.from_config(config.gateway.tls)
        bound = binder.bind(config, measure=not check_config)
    except SyshaxError as error:
        raise click.ClickException(configfile.fault_text(path, error)) from None
    for warning in configfile.warnings(path, config):
        _log.warning("%s", warning)
    if check_config:
        click.echo(f"{path} is valid. Instances: {', '.join(enabled_services(config))}.")
        return
    _log.info("syshaxd %s starts with %s", __version__, path)
    planned_gpus.write(planned_gpus.default_path(), bound.specs)
    sdnotify.check()
    descriptors.raise_limit()
    # Requests leave no reference cycles, so frequent collections only cost time on the hot path.
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)
    try:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(serve(path, text, config, bound))
    except SyshaxError as error:
        raise click.ClickException(str(error)) from None


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Uses uvloop if it is installed: about a fifth less CPU time per streamed chunk."""
    try:
        import uvloop  # noqa: PLC0415 - optional
    except ImportError:
        return None

    return uvloop.new_event_loop


async def serve(path: Path, text: str, config: Config, bound: Bound) -> None:
    """Runs the daemon with the text of a configuration file until it is asked to stop.

    Raises:
        SyshaxError: An essential part could not be started, or has failed: instances keep running.
    """
    orders = Orders()
    async with AsyncExitStack() as stack:
        daemon = await build(stack, orders, config, bound, path=path, text=text)
        await daemon.start()
        fault = await daemon.run()
        disorder = await daemon.stop(fault)
    if fault is not None:
        raise SyshaxError(f"syshaxd has failed; instances keep running: {fault}") from fault
    if disorder is not None:
        raise SyshaxError(f"syshaxd did not stop cleanly, see its log: {disorder}") from disorder
    _log.info("stopped")
