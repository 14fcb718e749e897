#!/usr/bin/env bash
# Makes again what docs/tyingbench.md shows. Two hours for the table on two cores; it goes on where it was interrupted.
#
#     docs/data/tyingbench.sh input.txt     # tinyshakespeare, sha256 86c4e6aa...
set -euo pipefail
text=$1
out=${2:-comparisons/tyingbench}

python -m experiments.tyingbench build --layers 6 --seeds 5 --data.path "$text" --out "$out/shakespeare-6"
python -m experiments.tyingbench agents --trials 200 --out "$out/league"
