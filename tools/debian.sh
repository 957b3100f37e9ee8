#!/usr/bin/env bash
# Install the Debian packages that the tests on a real SLURM need (13 MB); does nothing where they are installed.
set -euo pipefail
export PATH=$PATH:/usr/sbin:/sbin
packages=(slurmctld slurmd slurm-client munge)
[ "$(type -P slurmctld slurmd sbatch munged | wc -l)" = 4 ] && exit
if ! command -v apt-get > /dev/null; then
  echo "$0: no apt-get here; install SLURM (slurmctld, slurmd, sbatch) and munge yourself" >&2
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
