#!/bin/bash
# Puts AMD's tools of one version, mounted at /tools/Xilinx, and the Python environment on PATH, then runs what it is told.
set -e
version=2024.2
for name in Vivado Vitis Vitis_HLS; do
  settings=/tools/Xilinx/$name/$version/settings64.sh
  if [ -f "$settings" ]; then source "$settings"; fi
done
PATH="/opt/finn/bin:$PATH"
if ! command -v "$1" >/dev/null; then
  echo "error: $1 is neither in the image nor in /tools/Xilinx for version $version" >&2
  exit 127
fi
exec "$@"
