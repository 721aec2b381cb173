# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""How many examples hypothesis tries (`--hypothesis-profile` chooses another profile), and where tests keep things."""

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

# No test asserts a speed: others may run beside it.
untimed = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("quick", untimed, max_examples=40)
settings.register_profile("thorough", untimed, max_examples=200)  # `make test-all`
settings.load_profile("quick")


@pytest.fixture(scope="session", autouse=True)
def _not_in_the_users_state(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What a test keeps without naming a folder is not among what this user's own syshaxd keeps."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        yield
