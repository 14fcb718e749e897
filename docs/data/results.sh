#!/usr/bin/env bash
# The commands behind docs/results.md, from the root of the project: about 75 minutes on two cores. The same call resumes them.
# usage: docs/data/results.sh tinyshakespeare.txt [folder]
set -euo pipefail
text=$1
out=${2:-comparisons/results}
limited=(--data.train-chars 50000)

fixed=(independent all_tied sequence:3 sandwich private_first)
deciding=(random local_search dqn double_dqn maskable_ppo)
more=(sequence:2 cycle:3 cycle_rev:3 middle_cycle:4
      tie_after:20:private_first untie_after:50:private_first share_then_unshare:30
      paper evolution)
# Learning rates to both sides of the preset's.
rates=("independent --optim.learning-rate 2e-3" "independent --optim.learning-rate 8e-3")
tied_rates=("private_first --optim.learning-rate 2e-3" "private_first --optim.learning-rate 8e-3")
# Deciding for longer, and starting untied: what the preset's values were before.
long="--env.freeze-after 0.6"
longer=("random $long" "dqn $long" "maskable_ppo $long" "qrdqn $long" "ppo $long" "recurrent_ppo $long" "gradient_similarity $long"
        "local_search --reward improvement --agent.explore 0.5 $long" "thompson --agent.explore 0.5 $long"
        "random --env.initial-pointers independent $long" "dqn --env.initial-pointers independent $long")
# The baseline of trials, and the weight of parameters.
rewards=("local_search --reward improvement" "local_search --reward.param-weight 0" "dqn --reward fork" "thompson --reward fork")

# The preset as it was for these tables.
mini=(--preset mini --model.positions learned --model.qk-norm false --model.residual plain --optim.learning-rate 4e-3 --optim.tied-rate 0.5)
compare() { # name, then flags; without the untied models of as many layers, which these tables do not have
    python -m experiments.compare --no-shallow "${mini[@]}" --seeds 5 --clock cpu --out "$out/$1" "${@:2}"
}
compare shakespeare_rich --agents "${fixed[@]}" "${deciding[@]}" "${rates[@]}" "${tied_rates[@]}" "${more[@]}" "${longer[@]}" \
    "${rewards[@]}" --data.path "$text"
compare shakespeare_limited --agents "${fixed[@]}" "${deciding[@]}" "${rates[1]}" --data.path "$text" "${limited[@]}"
python -m experiments.signal_study "${mini[@]}" --decisions 54 --seeds 2 --data.path "$text" --out "$out/signal"
# Two thirds of the length, and of the text.
shorter=(--trainer.iterations 320 --data.max-chars 390000)
compare stdlib_rich --agents "${fixed[@]}" "${deciding[@]}" "${shorter[@]}"
compare stdlib_limited --agents "${fixed[@]}" "${deciding[@]}" "${shorter[@]}" --data.train-chars 33000
# Where depth pays: a task in which steps follow one another, and text at the size of the main job.
python -m experiments.compare --preset p-hop --seeds 5 --clock cpu --out "$out/p_hop" --agents independent shallow:3 sequence:3
python -m experiments.compare --preset p-hop --seeds 1 --clock cpu --out "$out/p_hop_learned" --agents independent shallow:3 shallow:2 \
    --model.positions learned --model.qk-norm false --trainer.iterations 1200 --optim.learning-rate 4e-3 --env.decision-interval 30
python -m experiments.compare --preset small --seeds 3 --clock cpu --out "$out/small" --agents independent shallow:3
# On a GPU: the same with larger batches, and twelve layers. (The shipped rows are of the first two or three seeds.)
python -m experiments.compare --preset p-hop --trainer.batch-size 128 --trainer.iterations 2700 --trainer.device cuda --seeds 5 --jobs 5 \
    --out "$out/p_hop_large" --agents independent shallow:3 sequence:3 local_search dqn
python -m experiments.compare --preset small --model.num-layers 12 --trainer.batch-size 64 --trainer.iterations 1200 --trainer.device cuda \
    --env.decision-interval 40 --seeds 5 --jobs 5 --out "$out/small_deep" --agents independent shallow:3 sequence:3 local_search dqn

# One rule for tied layers: rates that fall with the number of uses, or residuals that do, each at its best learning rate; no plateau.
rotary=(--preset mini --model.positions rotary --model.qk-norm --model.residual plain --optim.learning-rate 4e-3 --optim.tied-rate 0)
of_rates() { # a variant at three learning rates
    for rate in "" " --optim.learning-rate 2e-3" " --optim.learning-rate 8e-3"; do echo "$1$rate"; done
}
mapfile -t variants < <(for tied in sequence:3 all_tied; do
    for rule in "" " --optim.tied-rate 0.5" " --model.residual looped"; do of_rates "$tied$rule"; done
done)
looped=(--model.residual looped)
python -m experiments.compare --no-shallow "${rotary[@]}" --seeds 5 --clock cpu --out "$out/tied_rates" --agents independent shallow:3 \
    "${variants[@]}" "independent --optim.learning-rate 2e-3" "independent --optim.learning-rate 8e-3"
python -m experiments.compare --no-shallow "${rotary[@]}" --seeds 5 --clock cpu --out "$out/looped" --agents independent \
    "independent ${looped[*]}" "independent ${looped[*]} --optim.learning-rate 8e-3" "independent ${looped[*]} --optim.learning-rate 1.6e-2" \
    "shallow:3 ${looped[*]}" "shallow:3 ${looped[*]} --optim.learning-rate 8e-3" "shallow:3 --optim.learning-rate 8e-3" \
    "sequence:3 ${looped[*]} --optim.learning-rate 1.6e-2"
