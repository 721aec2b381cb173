# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""The instances and models that a configuration describes: replicas counted out, models looked up."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from syshaxd.core.config.schema import Config, ModelConfig
from syshaxd.core.config.services import ArgValue, ServiceConfig
from syshaxd.core.types import Device, Role


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedModel:
    """A model, by its names in the API."""

    name: str
    aliases: tuple[str, ...] = ()
    path: str | None = None
    """Folder of the weights."""
    path_key: str = "models.path"
    """The key of the folder."""
    args: Mapping[str, ArgValue | list[ArgValue] | None] = field(default_factory=dict)
    """Arguments of `vllm serve` that its instances share."""

    @property
    def names(self) -> tuple[str, ...]:
        """All names in the API."""
        return (self.name, *self.aliases)


def sections(config: Config) -> dict[str, ServiceConfig]:
    """The services as the file has them, by name, enabled or not."""
    services = config.services
    return {"gpu": services.gpu, "cpu": services.cpu, **services.__pydantic_extra__}


def named_models(config: Config) -> Mapping[str, ModelConfig]:
    """The models under `models`, by key."""
    return config.models.__pydantic_extra__


def on_demand_instances(config: Config) -> dict[str, str]:
    """The enabled instances that only requests start, by name, and the model that each serves."""
    models = named_models(config)
    return {
        name: model
        for name, service in enabled_services(config).items()
        if (model := model_of(config, service).name) in models and models[model].start == "on-demand"
    }


def replicas(name: str, service: ServiceConfig) -> Iterator[tuple[str, ServiceConfig]]:
    """The instances of a service, each as a service of its own."""
    if service.replicas is None:
        yield name, service
        return
    for number in range(service.replicas):
        container = service.container
        if container.name:
            container = container.model_copy(update={"name": f"{container.name}-{number}"})
        own: dict[str, object] = {"replicas": None, "port": service.port + number, "container": container}
        if isinstance(service.gpus, list) and len(service.gpus) % service.replicas == 0:
            each = len(service.gpus) // service.replicas
            own["gpus"] = service.gpus[number * each : (number + 1) * each]
        yield f"{name}-{number}", service.model_copy(update=own)


def enabled_services(config: Config) -> dict[str, ServiceConfig]:
    """The enabled instances, by name, in start order."""
    return {
        instance: its
        for name, service in sections(config).items()
        if service.enabled
        for instance, its in replicas(name, _with_arguments(service, model_of(config, service)))
    }


def _with_arguments(service: ServiceConfig, model: ServedModel) -> ServiceConfig:
    """The service with the arguments that all instances of its model have, unless it has others."""
    own = {flag_name(key) for key in service.args}
    shared = {key: value for key, value in model.args.items() if flag_name(key) not in own}
    return service.model_copy(update={"args": shared | service.args}) if shared else service


def flag_name(key: str) -> str:
    """`max_model_len` and `max-model-len` are the same flag; text after a dot is a key of a JSON value."""
    head, dot, tail = key.partition(".")
    return head.replace("_", "-") + dot + tail


def section_of(config: Config, instance: str) -> str:
    """The name of the service that an enabled instance belongs to."""
    return instance if instance in sections(config) else instance.rpartition("-")[0]


def device_of(service: ServiceConfig) -> Device:
    """The device that computes."""
    return service.device or (Device.CUDA if service.role is Role.GPU else Device.CPU)


def container_name(name: str, service: ServiceConfig) -> str:
    """The name of an instance's container: upstream's, unless configured."""
    return service.container.name or f"vllm_{name}"


def model_of(config: Config, service: ServiceConfig) -> ServedModel:
    """What a service serves: a model under `models`, or the default model, which may have other weights there."""
    models = named_models(config)
    if service.model is not None and service.model in models:
        return _named(service.model, models[service.model])
    default = default_model(config)
    if service.model is None:
        return default
    return ServedModel(name=default.name, aliases=default.aliases, path=service.model, args=default.args)


def default_model(config: Config) -> ServedModel:
    """The model of services that name none."""
    models, named = config.models, named_models(config).get(config.models.default)
    if named is not None:
        return _named(models.default, named)
    return ServedModel(name=models.default, aliases=tuple(models.aliases), path=models.path)


def _named(key: str, model: ModelConfig) -> ServedModel:
    return ServedModel(
        name=key, aliases=tuple(model.aliases), path=model.path, path_key=f"models.{key}.path", args=model.args
    )
