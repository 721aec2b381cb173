#!/bin/bash
# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
#
# Installs the shells whose completion is tested, what looks at manual pages, and node for the dashboard's script. Needs root.
set -euo pipefail
type zsh fish mandoc node &>/dev/null && exit
echo "==> installing zsh, fish, mandoc and node"
apt-get update -qq
DEBIAN_FRONTEND=noninteractive apt-get install -qq --no-install-recommends zsh fish mandoc nodejs >/dev/null
