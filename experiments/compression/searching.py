"""Where candidates come from: the measured search, or an agent that decides in tying/Compressing-v0."""

import agents
from envs.compressing import CompressingEnv, QuestionSimulator
from experiments.compression.settings import DEFAULT_SEARCH, Compression
from tying.compression import rules
from tying.compression.search import Found, Questions, search
from tying.compression.sources import Sources
from tying.config import to_dict


def find(ask: Questions, num_sets: int, compression: Compression, uninformed_loss: float) -> Found:
    """Return what the search of a call finds at K sets."""
    flags = compression.flags
    by_agent = flags.search != DEFAULT_SEARCH
    patterns = _decided(ask, num_sets, compression, uninformed_loss) if by_agent else None
    return search(ask, num_sets, flags.removing, patterns)


def _decided(ask: Questions, num_sets: int, compression: Compression, uninformed_loss: float) -> list[Sources]:
    """Return the patterns of at most K sets that an agent came through."""
    seen: list[Sources] = []
    layers = ask.walk.num_layers
    # Each set above the budget costs as much as the worst answer, so that patterns within it are the best that there are.
    # A tied model can be worse than one that knows nothing: the rules, which are asked in any case, say by how much.
    worst = max(uninformed_loss, *map(ask, rules.tyings(layers, num_sets).values()))

    def answer(sources: Sources) -> float:
        if 0 < sources.num_sets <= num_sets and (compression.flags.removing or None not in sources):
            seen.append(sources)
        return min(ask(sources), worst)

    config, decisions = compression.config, compression.flags.decisions
    simulator = QuestionSimulator(answer, layers, ask.walk.set_params, uninformed_loss)
    # Decisions are questions here, whatever windows of training the preset has.
    own = {"decision_interval": 1, "freeze_after": 1.0, "initial_pointers": "independent"}
    charge = {"param_free": num_sets / layers, "param_weight": layers * worst}
    settings = {"env": {**to_dict(config.env), **own}, "reward": {**to_dict(config.reward), **charge}}
    env = CompressingEnv(simulator, None, decisions, None, **settings)
    hyperparameters = dict(config.hyperparameters)
    if "explore" in hyperparameters and "agent.explore" not in config.chosen:
        hyperparameters["explore"] = 1.0  # a share of a training run, otherwise; here every decision is for finding out
    agent = agents.make(config.agent.name, env, config.run.seed, **hyperparameters)
    agent.learn(env, decisions)
    return list(dict.fromkeys(seen))
