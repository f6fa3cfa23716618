# SPDX-License-Identifier: Apache-2.0
# The Debian packages this project needs; sourced by deploy/quickstart and tests/run.
# shellcheck shell=bash

build_packages=(gcc libc6-dev ninja-build meson pkg-config python3 libjansson-dev libhugetlbfs-dev
	libibverbs-dev librdmacm-dev ibverbs-providers)

test_packages=("${build_packages[@]}" libcmocka-dev iproute2 git clang clang-tidy clang-format cppcheck
	libclang-rt-14-dev libbenchmark-dev g++ iperf3 afl++ spin strace valgrind)

# The end-to-end tests move QEMUs too, with Debian's kernel in them.
vm_packages=(qemu-system-x86 zstd)
# libvirt without what starts it: the tests start one of their own.
libvirt_packages=(libvirt-daemon libvirt-clients libvirt-daemon-driver-qemu)
testbed_packages=("${vm_packages[@]}" busybox-static ibverbs-utils perftest rdmacm-utils)

# Installs those that are missing. Needs neither root nor a network when none is.
install_missing() {
	local package missing=()
	for package in "$@"; do
		if [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" != installed ]; then
			missing+=("$package")
		fi
	done
	[ ${#missing[@]} -eq 0 ] && return 0
	if [ "$(id -u)" -ne 0 ]; then
		echo "$0: as root, install: ${missing[*]}" >&2
		return 1
	fi
	echo "installing ${missing[*]}"
	export DEBIAN_FRONTEND=noninteractive
	apt-get update -q && apt-get install -q -y --no-install-recommends "${missing[@]}"
}
