#!/usr/bin/env bash
# The commands behind docs/tyingbench.md: two hours for the table on two cores, a quarter of an hour for the rest.
# After an interruption, the same call resumes the table and the comparisons.
#
#     docs/data/tyingbench.sh input.txt     # tinyshakespeare, sha256 86c4e6aa...
set -euo pipefail
text=$1
out=${2:-comparisons/tyingbench}

python -m experiments.tyingbench build --layers 6 --seeds 5 --data.path "$text" --out "$out/shakespeare-6"

# The library's agents take a second per trial to learn, the others a fraction of that.
# Agents explore to the end of their queries, unless --agent.explore says otherwise.
benchmark() {
    name=$1
    shift
    python -m experiments.tyingbench agents --queries 60 --out "$out/$name" "$@"
}
library=(dqn qrdqn recurrent_ppo)
own=("random --env.action-mode joint" random surrogate local_search
    "local_search --reward improvement" evolution thompson ucb double_dqn ppo maskable_ppo a2c paper cross_entropy)
benchmark agents --trials 200 --agents "${own[@]}"
benchmark agents_library --trials 50 --agents "${library[@]}"

# Within a budget of sets, on the table of a trained model.
within() {
    name=$1
    shift
    python -m experiments.tyingbench agents --table minilm-6 --sets 5 4 3 2 --queries 200 --out "$out/$name" "$@"
}
within sets --trials 50 --agents "random --env.action-mode joint" random additive greedy cross_entropy local_search \
    "local_search --reward improvement" evolution thompson
within sets_learners --trials 20 --agents ppo surrogate double_dqn dqn

# The table of a trained decoder: forty minutes of training on one core, a quarter of an hour of questions.
[ -d "$out/decoder-8" ] || python -m experiments.train --preset small --agent independent --model.num-layers 8 \
    --trainer.iterations 3000 --out "$out/decoder-8"
python -m experiments.tyingbench questions "$out/decoder-8" --no-removing --slices 3 --reward.num-batches 1 \
    --trainer.batch-size 8 --out "$out/stdlib-8.csv"

python -m experiments.tyingbench agents --table stdlib-8 --sets 4 --queries 200 --trials 30 --out "$out/stdlib_8" \
    --agents random additive greedy evolution local_search thompson double_dqn cross_entropy

python -m experiments.tyingbench agents --table minilm-6-halves --sets 4 3 --queries 200 --trials 12 --out "$out/minilm_6_halves" \
    --agents "random --env.action-mode joint" random additive greedy cross_entropy local_search evolution thompson

# A policy that learned on the table, in runs on another text and of another depth, beginning untied.
[ -d "$out/policy" ] || python -m experiments.tyingbench pretrain "double_dqn --agent.network per_layer" --out "$out/policy"
# The preset `mini` as it was for these runs.
mini=(--preset mini --model.positions learned --model.qk-norm false --model.residual plain --optim.learning-rate 4e-3 --optim.tied-rate 0.5)
transfer() {
    name=$1
    shift
    python -m experiments.compare --no-shallow --seeds 5 "${mini[@]}" --trainer.iterations 240 --env.decision-interval 3 \
        --env.initial-pointers independent --out "$out/transfer_$name" --agents independent private_first random \
        "double_dqn --agent.network per_layer" "double_dqn --agent.network per_layer --agent.init-from $out/policy" "$@"
}
transfer text
transfer depth --model.num-layers 8 --data.path "$text"
