# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Which parts take a changed configuration while the daemon runs."""

import asyncio
from functools import partial
from pathlib import Path

from syshaxd.core.config import Config
from syshaxd.core.launch.bound import Bound
from syshaxd.core.placement.rules import Policy
from syshaxd.instances.on_demand import OnDemandModels, OnDemandSettings
from syshaxd.instances.settings import SupervisorSettings
from syshaxd.instances.supervisor import Supervisor
from syshaxd.observe.cpu_bindings import BindingMonitor
from syshaxd.observe.liveness import Liveness
from syshaxd.reconfigure import Bind, Reconfigurer
from syshaxd.serving.engine import Engine
from syshaxd.serving.handover import Handover, HandoverPolicy
from syshaxd.serving.operations import InstanceOperations
from syshaxd.serving.runner import Runner, TimeLimits
from syshaxd.system import planned_gpus


def make_reconfigurer(
    path: Path,
    text: str,
    config: Config,
    bound: Bound,
    *,
    bind: Bind,
    instances: InstanceOperations,
    engine: Engine,
    runner: Runner,
    handover: Handover,
    liveness: Liveness,
    on_demand: OnDemandModels,
) -> Reconfigurer:
    """Makes what reconfigures these parts. The first five arguments are those of `Reconfigurer`."""
    settle = partial(
        _settle,
        supervisor=instances.supervisor,
        runner=runner,
        handover=handover,
        engine=engine,
        bindings=instances.bindings,
        liveness=liveness,
        on_demand=on_demand,
    )
    return Reconfigurer(
        path,
        text,
        config,
        bound,
        bind=bind,
        settle=settle,
        supervisor=instances.supervisor,
        instances=instances,
        events=engine.events,
    )


def _settle(
    config: Config,
    bound: Bound,
    *,
    supervisor: Supervisor,
    runner: Runner,
    handover: Handover,
    engine: Engine,
    bindings: BindingMonitor,
    liveness: Liveness,
    on_demand: OnDemandModels,
) -> None:
    """Puts a configuration into effect, except for starting and stopping instances and keys that need a restart."""
    system = config.system
    supervisor.set_settings(SupervisorSettings.from_config(config.lifecycle))
    liveness.interval_s = config.lifecycle.liveness_interval_s
    runner.limits = TimeLimits.from_config(system)
    handover.set_policy(handover_policy(config))
    engine.set_failure_limits(breaker_failures=system.breaker_failures, retry_ratio=system.retry_ratio)
    engine.set_limits(max_queue_size=system.max_queue_size, max_queue_wait_s=system.max_queue_wait_s)
    bindings.set_bound(bound)
    # In a thread, as it reads and writes a file; it logs what goes wrong.
    asyncio.get_running_loop().run_in_executor(None, planned_gpus.write, planned_gpus.default_path(), bound.specs)
    engine.set_policy(Policy.from_config(config))
    on_demand.set_settings(OnDemandSettings.of(config, bound))


def handover_policy(config: Config) -> HandoverPolicy:
    """What a configuration allows to hand over."""
    offload = config.offload
    return HandoverPolicy(enabled=offload.enabled, migrate=offload.migrate, across_weights=offload.across_weights)
