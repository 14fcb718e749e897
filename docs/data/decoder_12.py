"""Agents on a trained decoder of twelve layers, without a table: `python docs/data/decoder_12.py RUN OUT.csv [TRIALS]`.

Every agent proposes tyings and removals in tying/Compressing-v0 with at most half of the sets, and has 200 questions to
the reward split. What it would keep after 20, 50, 100 and 200 of them is judged on the test split.
All trials share the answers.
"""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd

import agents
from envs.compressing import QuestionSimulator
from experiments.compression import settings
from experiments.compression.subject import Subject
from tying.compression import Sources, informed, rules
from tying.compression.search import Questions, search
from tying.compression.walk import BlockWalk
from tying.files import write_text

NAMES = "random additive greedy cross_entropy local_search evolution thompson surrogate double_dqn".split()
QUERIES = (20, 50, 100, 200)


def asked_by(name: str, seed: int, ask: Questions, num_sets: int, worst: float) -> list[Sources]:
    """Return what an agent asked for, each pattern once."""
    asked: dict[Sources, float] = {}

    def answer(sources: Sources) -> float:
        asked[sources] = min(ask(sources), worst)
        return asked[sources]

    layers, decisions = ask.walk.num_layers, 2 * QUERIES[-1]  # a pattern may come again
    env = agents.make_env(
        name,
        env_id="tying/Compressing-v0",
        model=QuestionSimulator(answer, layers, ask.walk.set_params, worst),
        num_decisions=decisions,
        initial_pointers="independent",
        reward={"param_free": num_sets / layers, "param_weight": layers * worst},
    )
    explores = hasattr(agents.agent_class(name)[0].Config(), "explore")
    agent = agents.make(name, env, seed, **({"explore": 1.0} if explores else {}))
    agent.learn(env, decisions, callback=lambda *_: len(asked) < QUERIES[-1])
    return list(asked)


def questions(subject: Subject, split: str, batches: int) -> Questions:
    """Return questions to a split."""
    return Questions(BlockWalk(subject.objective, subject.model, subject.task.evaluation_batches(split, 8, batches)))


def main(run: str, out: str, trials: int = 3) -> None:
    """Ask, judge and write."""
    subject = Subject.load(settings.parse([run, "--trainer.device", "auto", "--out", str(Path(out).with_suffix(""))]))
    ask, test = questions(subject, "reward", 1), questions(subject, "test", 8)
    num_sets = ask.walk.num_layers // 2
    fixed = rules.tyings(ask.walk.num_layers, num_sets) | rules.removals(ask.walk.num_layers, num_sets)
    worst = max(subject.objective.uninformed_loss, *map(ask, fixed.values()))
    rows: list[dict[str, object]] = []

    def judge(who: str, seed: int, number: int, many: Sequence[Sources]) -> None:
        best = min((s for s in many if 0 < s.num_sets <= num_sets), key=ask, default=None)
        loss = worst if best is None else test(best)
        rows.append({"who": who, "seed": seed, "queries": number, "pattern": best, "test_loss": loss})
        write_text(Path(out), pd.DataFrame(rows).to_csv(index=False))
        print(rows[-1], flush=True)

    original = {"pattern": Sources.original(ask.walk.num_layers), "test_loss": test.walk.original}
    rows.append({"who": "original", "seed": 0, "queries": 0, **original})
    judge("every fixed rule", 0, len(fixed), list(fixed.values()))
    for name in NAMES:
        for seed in range(trials):
            found = asked_by(name, seed, ask, num_sets, worst)
            for number in QUERIES:
                judge(name, seed, number, found[:number])
    searches: dict[str, Callable[[Questions], Sources]] = {
        "greedy merging": lambda counted: informed.greedy_merging(counted, num_sets),
        "greedy removal": lambda counted: informed.greedy_removal(counted, num_sets),
        "measured search": lambda counted: search(counted, num_sets).best[0],
    }
    for name, find in searches.items():
        counted = Questions(ask.walk, ask.asked)
        best = find(counted)
        judge(name, 0, len(counted.asked), [best])


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], *map(int, sys.argv[3:]))
