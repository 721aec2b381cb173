#!/bin/bash
# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
#
# Builds what the tests of the package need, in a folder: a Debian root file system with systemd and dnf, the packages of both
# architectures, and for this machine's a newer one to upgrade to. Needs root; runs on Debian 12.
#
#   setup.sh FOLDER
set -euo pipefail
folder=$(realpath -m "$1")
here=$(dirname "$(realpath "$0")")
mkdir -p "$folder"

if ! type rpmbuild dnf createrepo_c rpmlint systemd-nspawn debootstrap ip nsenter &>/dev/null; then
    echo "==> installing what builds packages and boots machines"
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=600 install -qq --no-install-recommends \
        rpm dnf createrepo-c rpmlint systemd-container debootstrap iproute2 >/dev/null
fi

if [[ ! -e $folder/root.complete ]]; then
    echo "==> building a root file system"
    rm -rf "$folder/root"
    mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Codename: bookworm' 2>/dev/null | head -1)
    debootstrap --variant=minbase --include=systemd,systemd-sysv,dbus,python3,dnf,rpm,curl,procps bookworm "$folder/root" \
        ${mirror:+"$mirror"} >"$folder/debootstrap.log"
    # Debian starts what it installs; RPM distributions, what a preset tells them.
    mkdir -p "$folder/root/etc/systemd/system-preset"
    echo 'disable *' >"$folder/root/etc/systemd/system-preset/99-test.preset"
    touch "$folder/root.complete"
fi

# The machine's own files come from .deb packages: this one tells rpm of those that sysHAX requires.
rpmbuild -bb --quiet --define "_topdir $folder/base" --define "_rpmdir $folder/base" "$here/debian-base.spec"

cd "$here/../../.."
make rpm RELEASE=1
make repo RELEASE=2 ARCHES="$(uname -m)"
cp "$folder"/base/noarch/*.rpm build/repo/
createrepo_c --quiet build/repo

# The container image is built without a network: of what that takes, only this is not among the packages' wheels.
build/tools/bin/python -m pip download --quiet --disable-pip-version-check --no-deps --dest "$folder/setuptools" 'setuptools>=77'
