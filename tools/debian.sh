#!/usr/bin/env bash
# Install the Debian packages that some tests need: a real SLURM (13 MB), a compiler for Cortex-M and an emulator of its
# boards (0.9 GB), a browser (0.3 GB); does nothing where they are installed.
set -euo pipefail
export PATH=$PATH:/usr/sbin:/sbin
packages=(slurmctld slurmd slurm-client munge gcc make gcc-arm-none-eabi libnewlib-arm-none-eabi qemu-system-arm chromium)
programs=(slurmctld slurmd sbatch munged gcc make arm-none-eabi-gcc qemu-system-arm chromium)
[ "$(type -P "${programs[@]}" | wc -l)" = "${#programs[@]}" ] && exit
if ! command -v apt-get > /dev/null; then
  echo "$0: no apt-get here; install yourself what is missing of ${programs[*]}" >&2
  exit 1
elif [ "$(id -u)" = 0 ]; then
  run=(env)
elif sudo -n true 2> /dev/null; then
  run=(sudo -n env)
else
  echo "$0: run as root: apt-get install --no-install-recommends ${packages[*]}" >&2
  exit 1
fi
"${run[@]}" apt-get update -qq
"${run[@]}" DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${packages[@]}"
