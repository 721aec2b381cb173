#!/bin/bash
# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
#
# Installs the shells whose completion is tested, and what looks at manual pages. Needs root.
set -euo pipefail
command -v zsh fish mandoc >/dev/null && exit
echo "==> installing zsh, fish and mandoc"
apt-get update -qq
DEBIAN_FRONTEND=noninteractive apt-get install -qq --no-install-recommends zsh fish mandoc >/dev/null
