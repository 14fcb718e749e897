#!/usr/bin/env bash
# The commands behind docs/results.md, from the root of the project. About 75 minutes on two cores; interrupted, it goes on.
# usage: docs/data/results.sh tinyshakespeare.txt [folder]
set -euo pipefail
text=$1
out=${2:-comparisons/results}
limited=(--data.train-chars 50000)

fixed=(independent all_tied sequence:3 sandwich private_first)
deciding=(random local_search gradient_similarity dqn double_dqn maskable_ppo paper)
more=(sequence:2 cycle:3 cycle_rev:3 middle_cycle:4
      tie_after:20:private_first untie_after:50:private_first share_then_unshare:30
      evolution thompson qrdqn ppo recurrent_ppo)
# Learning rates to both sides of the preset's: the untied model's everywhere, a tied one's once.
rates=("independent --optim.learning-rate 2e-3" "independent --optim.learning-rate 8e-3")
tied_rates=("private_first --optim.learning-rate 2e-3" "private_first --optim.learning-rate 8e-3")
# Why agents do as they do: where they start, what parameters cost, how sure they must be.
start=("random --env.initial-pointers independent" "dqn --env.initial-pointers independent"
       "local_search --env.initial-pointers independent")
target="--reward.param-target 0.34 --reward.param-weight 0"
price=("dqn $target" "local_search $target")
sure=("local_search --agent.confidence 2 --agent.trial 2" "local_search --agent.confidence 2 --agent.trial 2 $target")

compare() { # name, then flags
    python -m experiments.compare --preset mini --seeds 5 --clock cpu --out "$out/$1" "${@:2}"
}
compare shakespeare_rich --agents "${fixed[@]}" "${deciding[@]}" "${rates[@]}" "${tied_rates[@]}" "${more[@]}" \
    "${start[@]}" "${price[@]}" "${sure[@]}" --data.path "$text"
compare shakespeare_limited --agents "${fixed[@]}" random local_search dqn double_dqn maskable_ppo "${rates[@]}" --data.path "$text" "${limited[@]}"
python -m experiments.signal --preset mini --decisions 36 --seeds 2 --data.path "$text" --out "$out/signal"
compare stdlib_rich --agents "${fixed[@]}" random local_search dqn double_dqn maskable_ppo
compare stdlib_limited --agents "${fixed[@]}" random local_search dqn double_dqn maskable_ppo "${limited[@]}"
