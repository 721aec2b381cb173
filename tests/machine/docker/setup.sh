#!/bin/bash
# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
#
# Installs the container engine on which instances are tested. It is started by the tests, in a network of its own.
set -euo pipefail
missing=()
for program in dockerd:docker.io iptables:iptables ip:iproute2; do
    PATH=$PATH:/usr/sbin command -v "${program%%:*}" >/dev/null || missing+=("${program##*:}")
done
[ ${#missing[@]} = 0 ] && exit
echo "==> installing ${missing[*]}"
# Its own service must not start beside the tests' engine.
policy=/usr/sbin/policy-rc.d
if [ ! -e $policy ]; then
    trap 'rm -f $policy' EXIT
    printf '#!/bin/sh\nexit 101\n' >$policy
    chmod +x $policy
fi
apt-get -o DPkg::Lock::Timeout=600 update -qq
DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=600 install -qq --no-install-recommends "${missing[@]}" >/dev/null
