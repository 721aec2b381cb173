# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Lists of endpoints, as routers in front of several hosts read them."""

import json
from collections.abc import Callable, Mapping, Sequence
from ipaddress import IPv4Address, ip_address
from urllib.parse import SplitResult, urlsplit

from syshaxd.core.errors import BadRequestError

_PORTS = {"http": 80, "https": 443}


def endpoints_text(form: str, urls: Sequence[str], models: Sequence[str]) -> str:
    """Returns the list in one of FORMS.

    Args:
        form: The name of the form.
        urls: Of the endpoints, without `/v1`.
        models: What each of them serves; the first is the main one.

    Raises:
        BadRequestError: A URL is none, or cannot be in such a list.
    """
    faults = [fault for url in urls if (fault := _fault(url, form))]
    if faults:
        raise BadRequestError("; ".join(faults))
    return FORMS[form]([urlsplit(url.rstrip("/")) for url in urls], models)


def is_everywhere(url: str) -> bool:
    """Whether a URL has the address that stands for all of the host's, which no other host can connect to."""
    host = urlsplit(url).hostname or ""
    try:
        return ip_address(host).is_unspecified
    except ValueError:
        return False


def _fault(url: str, form: str) -> str:
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as error:
        return f"{url} is not a URL: {error}"
    if parts.scheme not in _PORTS or not parts.hostname or parts.path not in {"", "/"} or parts.query or parts.fragment:
        return f"{url} is not the URL of an endpoint, such as http://10.0.0.1:8010"
    if is_everywhere(url):
        return f"{url} stands for every address of its host; give one that routers can connect to"
    if form == "llm-d" and not _is_ipv4(parts.hostname):
        return f"{url}: llm-d takes IPv4 addresses only, not {parts.hostname}"
    return ""


def _is_ipv4(host: str) -> bool:
    try:
        return isinstance(ip_address(host), IPv4Address)
    except ValueError:
        return False


def _urls(endpoints: Sequence[SplitResult], models: Sequence[str]) -> str:
    return "\n".join(each.geturl() for each in endpoints)


def _production_stack(endpoints: Sequence[SplitResult], models: Sequence[str]) -> str:
    return _json(
        {
            "service_discovery": "static",
            "routing_logic": "roundrobin",
            "static_backends": ",".join(each.geturl() for each in endpoints),
            "static_models": ",".join(models[0] for _ in endpoints),
        }
    )


def _llm_d(endpoints: Sequence[SplitResult], models: Sequence[str]) -> str:
    return _json(
        {
            "endpoints": [
                {"name": f"syshax-{each.hostname}-{_port(each)}", "address": each.hostname, "port": str(_port(each))}
                for each in endpoints
            ]
        }
    )


def _prometheus(endpoints: Sequence[SplitResult], models: Sequence[str]) -> str:
    return _json(
        [
            {
                "targets": [f"{each.netloc.rpartition('@')[2]}" if each.port else f"{each.netloc}:{_port(each)}"],
                "labels": {"__scheme__": each.scheme, "model": models[0]},
            }
            for each in endpoints
        ]
    )


def _port(endpoint: SplitResult) -> int:
    return endpoint.port or _PORTS[endpoint.scheme]


def _json(value: object) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False)


FORMS: Mapping[str, Callable[[Sequence[SplitResult], Sequence[str]], str]] = {
    "urls": _urls,
    "production-stack": _production_stack,
    "llm-d": _llm_d,
    "prometheus": _prometheus,
}
"""A URL a line (`vllm-router --worker-urls`); the dynamic configuration of vLLM's production stack; the file of llm-d's
file discovery; the file of Prometheus's `file_sd_configs`."""
