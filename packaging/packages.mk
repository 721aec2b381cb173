# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
#
# Packages. `make rpm` needs rpmbuild and Python 3.11, and the package index once, for the wheels; `make repo` createrepo_c too.
#   make rpm ARCHES=aarch64 RELEASE=2 RPM_OPTIONS='--with system_libs'
.PHONY: lock wheels dist rpm repo install

VERSION := $(shell sed -n 's/^__version__ = "\(.*\)"/\1/p' src/syshaxd/__init__.py)
RELEASE ?= 1
ARCHES ?= x86_64 aarch64
RPM_OPTIONS ?=
RPM_TOP := $(CURDIR)/build/rpm
LOCK := packaging/rpm/requirements.lock
# That of the vendored wheels.
PYTHON311 ?= python3.11

build/tools/.done:
	@echo "==> installing what makes packages"
	@$(PYTHON) -m venv build/tools
	@build/tools/bin/python -m pip install --quiet --disable-pip-version-check build 'setuptools>=77' uv
	@touch $@

# Takes the newest versions. The hashes are those of all of their files, so one lock does for both architectures.
lock: build/tools/.done
	@echo '# What the packages vendor: exact versions, with hashes. Made by `make lock`; edit pyproject.toml instead.' > $(LOCK)
	@build/tools/bin/uv pip compile --quiet --upgrade pyproject.toml --extra speed --generate-hashes --no-annotate --no-header \
	    --python-version 3.11 --python-platform aarch64-manylinux_2_28 --only-binary :all: >> $(LOCK)

# With --require-hashes pip refuses a lock that lacks what one of its packages needs, or has it in another version.
# glibc 2.28 is that of the oldest distribution that vLLM's own wheels run on; openEuler 24.03 has 2.38.
build/wheels/%/.done: $(LOCK) build/tools/.done
	@echo "==> fetching the wheels for $*"
	@rm -rf $(@D) && mkdir -p $(@D)
	@build/tools/bin/python -m pip download --quiet --disable-pip-version-check --require-hashes -r $(LOCK) -d $(@D) \
	    --only-binary=:all: --implementation cp --python-version 3.11 \
	    --platform manylinux_2_28_$* --platform manylinux_2_17_$* --platform manylinux2014_$*
	@touch $@

wheels: $(ARCHES:%=build/wheels/%/.done)

# A source distribution and a wheel in dist/, for pip.
DIST_FILES := $(wildcard *.* benchmarks/*/*.md) LICENSE Makefile $(shell find src packaging systemd docs proto tests -type f -not -name '*.pyc' -not -path '*.egg-info/*')
dist: dist/.done
dist/.done: $(DIST_FILES) build/tools/.done
	@$(MAKE) --no-print-directory man completion
	@rm -rf dist && mkdir dist
	@build/tools/bin/python -m build --no-isolation --outdir dist . > dist/build.log || { cat dist/build.log >&2; exit 1; }
	@ls dist
	@touch $@

rpm: dist wheels
	@mkdir -p $(RPM_TOP)/SOURCES
	@cp dist/syshax-$(VERSION).tar.gz $(RPM_TOP)/SOURCES/
	@for arch in $(ARCHES); do \
	    tar -cf $(RPM_TOP)/SOURCES/syshax-wheels-$$arch.tar --transform 's,^\.,wheels,' -C build/wheels/$$arch . && \
	    echo "==> rpmbuild for $$arch" && \
	    rpmbuild -bb --quiet --nodeps --target $$arch --define '_topdir $(RPM_TOP)' --define 'syshax_version $(VERSION)' \
	        --define 'syshax_release $(RELEASE)' --define 'vendored_python $(PYTHON311)' $(RPM_OPTIONS) syshax.spec || exit; \
	done

# A dnf repository in build/repo: `dnf install --repofrompath syshax,file://$PWD/build/repo --nogpgcheck sysHAX`
repo: rpm
	@rm -rf build/repo && mkdir -p build/repo
	@cp $(RPM_TOP)/RPMS/*/*.rpm build/repo/
	@createrepo_c --quiet build/repo

# For other packagers: the same files as in the RPM, for this machine's architecture.
install: man completion build/wheels/$(shell uname -m)/.done
	@test -n '$(DESTDIR)' || { echo "make install: set DESTDIR, to / for this machine" >&2; exit 1; }
	$(PYTHON311) packaging/stage.py --destdir '$(DESTDIR)' --wheels build/wheels/$(shell uname -m)
