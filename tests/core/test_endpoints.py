# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Lists of endpoints for routers."""

import json

import pytest

from syshaxd.core.errors import BadRequestError
from syshaxd.core.report.endpoints import FORMS, endpoints_text

URLS = ("http://10.0.0.1:8010", "https://10.0.0.2/")


def test_urls() -> None:
    assert endpoints_text("urls", URLS, ["m"]) == "http://10.0.0.1:8010\nhttps://10.0.0.2"


def test_the_production_stack_gets_a_model_for_each_backend() -> None:
    found = json.loads(endpoints_text("production-stack", URLS, ["m", "other"]))
    assert found["static_backends"] == "http://10.0.0.1:8010,https://10.0.0.2"
    assert found["static_models"] == "m,m"


def test_llm_d_gets_ports_as_text_and_unique_names() -> None:
    found = json.loads(endpoints_text("llm-d", URLS, ["m"]))["endpoints"]
    assert [(each["address"], each["port"]) for each in found] == [("10.0.0.1", "8010"), ("10.0.0.2", "443")]
    assert len({each["name"] for each in found}) == 2


def test_prometheus() -> None:
    found = json.loads(endpoints_text("prometheus", ("http://[::1]:8010", "https://host"), ["m"]))
    assert [each["targets"] for each in found] == [["[::1]:8010"], ["host:443"]]
    assert [each["labels"]["__scheme__"] for each in found] == ["http", "https"]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "url", ["", "10.0.0.1:8010", "ftp://a:1", "http://a:1/v1", "http://a:99999", "http://0.0.0.0:1"]
)
def test_what_no_router_can_connect_to_is_refused(form: str, url: str) -> None:
    with pytest.raises(BadRequestError, match=url.replace("[", r"\[") or "is not the URL"):
        endpoints_text(form, ("http://10.0.0.1:8010", url), ["m"])


def test_llm_d_takes_no_names() -> None:
    with pytest.raises(BadRequestError, match="IPv4 addresses only, not host"):
        endpoints_text("llm-d", ("http://host:1",), ["m"])


def test_all_faults_at_once() -> None:
    with pytest.raises(BadRequestError, match=r"ftp://a.*ftp://b"):
        endpoints_text("urls", ("ftp://a", "ftp://b"), ["m"])
