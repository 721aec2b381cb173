#!/bin/bash
# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
#
# Installs the shells whose completion is tested, what looks at manual pages, node for the dashboard's script, and promtool
# for the rules of Prometheus, of which nothing else is installed. Needs root.
set -euo pipefail
if ! type zsh fish mandoc node &>/dev/null; then
    echo "==> installing zsh, fish, mandoc and node"
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -qq --no-install-recommends zsh fish mandoc nodejs >/dev/null
fi
if ! type promtool &>/dev/null; then
    echo "==> installing promtool"
    folder=$(mktemp -d)
    trap 'rm -rf "$folder"' EXIT
    (cd "$folder" && apt-get update -qq && apt-get download -qq prometheus 2>/dev/null)
    dpkg --fsys-tarfile "$folder"/prometheus_*.deb | tar -xO ./usr/bin/promtool > /usr/local/bin/promtool
    chmod 755 /usr/local/bin/promtool
fi
