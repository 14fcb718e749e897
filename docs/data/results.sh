#!/usr/bin/env bash
# The commands behind docs/results.md, from the root of the project. About 80 minutes on two cores; interrupted, it goes on.
# usage: docs/data/results.sh tinyshakespeare.txt [folder]
set -euo pipefail
text=$1
out=${2:-comparisons/results}
limited="--data.train-chars 50000"

fixed=(independent all_tied sequence:2 sequence:3 cycle_rev:3 sandwich private_first)
deciding=(random local_search thompson gradient_similarity dqn double_dqn maskable_ppo paper)
more=(cycle:2 cycle:3 middle_cycle:4 tie_after:20:private_first untie_after:50:private_first share_then_unshare:30
      evolution ucb qrdqn ppo recurrent_ppo a2c)
compare() { # name, then flags
    python -m experiments.compare --preset mini --clock cpu --out "$out/$1" "${@:2}"
}

# The learning rate, for untied and tied models alike; seeds that the comparisons do not use.
rates=()
for rate in 8e-3 4e-3 1.6e-2; do
    for pattern in independent all_tied private_first; do rates+=("$pattern --optim.learning-rate $rate"); done
done
tune() { compare "rates_$1" --agents "${rates[@]}" --seeds 1 --first-seed 100 "${@:2}"; }
# shellcheck disable=SC2086
{
    tune shakespeare_limited --data.path "$text" $limited
    tune shakespeare_rich --data.path "$text"
    tune stdlib_rich
    tune stdlib_limited $limited

    compare shakespeare_rich --agents "${fixed[@]}" "${deciding[@]}" "${more[@]}" --data.path "$text"
    python -m experiments.signal --preset mini --decisions 36 --seeds 2 --data.path "$text" --out "$out/signal"
    compare shakespeare_limited --agents "${fixed[@]}" "${deciding[@]}" --data.path "$text" $limited
    compare stdlib_rich --agents "${fixed[@]}" "${deciding[@]}"
    compare stdlib_limited --agents "${fixed[@]}" "${deciding[@]}" $limited
}

# What the defaults of `mini` were before: every layer its own at the start, decisions for longer, one rate for all.
before=()
for agent in random local_search dqn double_dqn; do
    before+=("$agent --env.initial-pointers independent" "$agent --env.freeze-after 0.9" "$agent --optim.tied-rate 0")
done
compare before --agents independent "${before[@]}" --data.path "$text"
