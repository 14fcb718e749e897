"""`make soak`: agents decide for long, and memory stays flat."""

import gc
import os
from pathlib import Path

import pytest

import agents
import envs  # noqa: F401 (registers the environments)

NUM_DECISIONS = 20_000
MOST_GROWTH = 20 * 2**20


def resident_bytes() -> int:
    """Return the memory that this process has in RAM."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.timeout(1800)
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads memory as Linux shows it")
@pytest.mark.parametrize("episode", [60, NUM_DECISIONS])
@pytest.mark.parametrize("name", ["random", "thompson", "local_search"])
def test_memory_is_flat(name: str, episode: int) -> None:
    env = agents.make_env(name, env_id="tying/TyingBench-v0", num_decisions=episode)
    agent = agents.make(name, env, seed=0)
    marks: dict[int, int] = {}
    done = 0

    def count(_: agents.Agent) -> None:
        nonlocal done
        done += 1
        if done % (NUM_DECISIONS // 4) == 0:
            marks[done] = resident_bytes()

    agent.learn(env, NUM_DECISIONS, callback=count)
    assert done == NUM_DECISIONS
    assert marks[NUM_DECISIONS] - marks[NUM_DECISIONS // 4] < MOST_GROWTH, marks
