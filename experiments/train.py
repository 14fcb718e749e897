"""Train a Transformer while an agent ties its layers.

python -m experiments.train --agent ppo --reward.param-weight 0.3 --seed 1
python -m experiments.train --resume runs/<run>
"""

import json
import re
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gymnasium
from rich.console import Console

import agents
from envs.layer_tying import LayerTyingEnv, ResumedBackend, TrainingBackend
from experiments import cli
from experiments.command import parse
from experiments.display import Display, summary_table
from experiments.recorder import Recorder
from experiments.settings import Settings, dump, from_dict
from tying import checkpoint
from tying.data import TokenData
from tying.errors import DivergenceError, InputError
from tying.files import read_json, replacing
from tying.pointers import Pointers
from tying.records import RunDirectory, perplexity, window_of
from tying.tensorboard import Board


def main(arguments: Sequence[str]) -> None:
    """Start a run, or go on with one."""
    command = parse(arguments)
    console = Console()
    if command.settings is None:
        assert command.resume is not None
        run = RunDirectory(command.resume)
        settings = from_dict(run.read_config(), f"{run.config_file}: ")
        if (run.final / "summary.json").exists():
            console.print(f"{run.path} is finished:")
        else:
            _train(run, settings, console, new=False)
    else:
        settings = command.settings
        run = RunDirectory(command.out or _new_folder(settings))
        run.require_new()
        _train(run, settings, console, new=True)
    _report(run, console)


def _new_folder(settings: Settings) -> Path:
    agent = re.sub(r"[^\w.]+", "-", settings.agent)
    stem = f"{settings.preset}__{agent}__s{settings.run.seed}__{time.strftime('%Y%m%d-%H%M%S')}"
    folder = Path("runs") / stem
    number = 1
    while folder.exists():
        number += 1
        folder = Path("runs") / f"{stem}-{number}"
    return folder


def _train(run: RunDirectory, settings: Settings, console: Console, new: bool) -> None:
    """Carry a run to its end; everything that can be refused is refused before a file is written."""
    start = time.perf_counter()
    backend = TrainingBackend(settings.setup)
    lines = [] if new else _known_decisions(run)
    whole: TrainingBackend | ResumedBackend = backend
    if lines:
        record = [(Pointers(line["pointers"]), window_of(line)) for line in lines]
        whole = ResumedBackend(backend, record, run.checkpoint_folder(len(lines)))
    env = LayerTyingEnv(settings.setup, backend=whole)
    fixed = agents.agent_class(settings.agent)[1]
    own = {name: value for name, value in settings.hyperparameters.items() if name not in fixed}
    agent = agents.make(settings.agent, gymnasium.wrappers.OrderEnforcing(env), settings.run.seed, **own)
    console.print(f"corpus {_corpus_name(settings)}: reading and tokenizing ...", highlight=False)
    data = backend.data
    data.require(settings.setup.model.context)
    if not new:
        _require_same_corpus(run, data)
        run.remove_leftovers()
    backend.reset(settings.run.seed)
    trainer = backend.start()
    if new:
        facts = {"device": str(trainer.device), "corpus": data.name, "corpus_sha256": data.corpus_sha256}
        run.create(settings.to_dict(), [Path(sys.executable).name, "-m", "experiments.train", *sys.argv[1:]], facts)
    with replacing(run.tokenizer_file) as temporary:
        data.tokenizer.save(str(temporary))
    console.print(
        f"run {run.path}\nmodel {trainer.independent_params:,} parameters untied, {env.backend.num_layers} layers; "
        f"data {len(data.splits['train']):,} training tokens; device {trainer.device}; agent {settings.agent}",
        highlight=False,
        soft_wrap=True,
    )
    batch_tokens = settings.setup.trainer.batch_size * settings.setup.model.context
    board = Board(run.tensorboard, None if new else (lines[-1]["iteration"] if lines else 0), batch_tokens)
    if new:
        board.config(dump(settings))
    pointers = Pointers(lines[-1]["pointers"]) if lines else env.initial_pointers
    with _how_to_resume(run), Display(settings.setup.trainer.iterations, batch_tokens, pointers, console) as display:
        if lines:
            display.start_at(lines[-1]["iteration"])
        recorder = Recorder(
            run, board, backend, agent, display, lines, env.num_decisions,
            settings.run.log_interval, settings.run.checkpoint_interval,
        )  # fmt: skip
        backend.on_iteration = recorder.on_iteration
        env.on_decision = recorder.on_decision
        env.reset(seed=settings.run.seed)  # the run's seed also holds for an agent that resets without one
        agent.learn(agent.env if hasattr(agent, "env") else env, env.num_decisions)
        elapsed = (lines[-1]["wall_s"] if lines else 0.0) + time.perf_counter() - start
        _finish(run, settings, recorder, board, elapsed)


def _known_decisions(run: RunDirectory) -> list[dict[str, Any]]:
    """Return the decisions up to the newest checkpoint; what came after it is cut off and will be done again."""
    newest = run.latest_checkpoint()
    count = newest[0] if newest else 0
    lines = run.read_decisions()[:count]
    if len(lines) < count:
        raise InputError(f"{run.decisions_file}: {len(lines)} decisions, but the newest checkpoint is after {count}")
    run.rewrite_decisions(lines)
    return lines


def _require_same_corpus(run: RunDirectory, data: TokenData) -> None:
    versions = read_json(run.path / "versions.json")
    if not isinstance(versions, dict) or versions.get("corpus_sha256") != data.corpus_sha256:
        raise InputError(f"cannot resume: corpus {data.name} is no longer the text that {run.path} was trained on")


def _corpus_name(settings: Settings) -> str:
    data = settings.setup.data
    return data.path or data.hf or data.corpus


@contextmanager
def _how_to_resume(run: RunDirectory) -> Iterator[None]:
    try:
        yield
    except (InputError, DivergenceError):
        raise  # it would end in the same way again
    except BaseException:
        print(f"to go on: python -m experiments.train --resume {run.path}", file=sys.stderr)
        raise


def _finish(run: RunDirectory, settings: Settings, recorder: Recorder, board: Board, elapsed: float) -> None:
    """Evaluate the trained model on the whole test split and write final/ in one step."""
    start = time.perf_counter()
    trainer = recorder.backend.trainer
    assert trainer is not None
    test_loss = trainer.evaluate("test")
    summary = {
        "agent": settings.agent,
        "seed": settings.run.seed,
        "preset": settings.preset,
        "pointers": list(trainer.pointers),
        "num_layers": len(trainer.pointers),
        "num_unique_layers": trainer.pointers.num_unique,
        "trainable_params": trainer.trainable_params,
        "trainable_block_params": trainer.binding.trainable_params,
        "independent_params": trainer.independent_params,
        "independent_block_params": recorder.lines[-1]["independent_block_params"],
        "iterations": trainer.iteration,
        "tokens": trainer.tokens,
        "decisions": sum(not line["frozen"] for line in recorder.lines),
        "test_loss": test_loss,
        "test_ppl": perplexity(test_loss),
        "reward_loss": recorder.lines[-1]["reward_loss"],
        "wall_s": elapsed + time.perf_counter() - start,
        "train_s": recorder.total("train_s"),
        "decision_s": recorder.total("decision_s"),
        "evaluate_s": recorder.total("evaluate_s"),
        "corpus_sha256": trainer.data.corpus_sha256,
    }
    figures = {k: summary[k] for k in ("test_loss", "test_ppl", "trainable_params", "num_unique_layers")}
    board.hparams(settings.flat(), figures, trainer.iteration)
    board.close()
    with replacing(run.final) as temporary:
        temporary.mkdir()
        checkpoint.save_tensors(trainer.state_dict()["model"], temporary / "model.safetensors")
        (temporary / "pointers.json").write_text(json.dumps(list(trainer.pointers)) + "\n")
        (temporary / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
        recorder.agent.save(temporary / "agent")


def _report(run: RunDirectory, console: Console) -> None:
    summary = read_json(run.final / "summary.json")
    console.print(summary_table(summary, Pointers(summary["pointers"])))
    console.print(
        f"look      tensorboard --logdir {run.path.parent}\n"
        f"sample    python -m experiments.sample {run.path}\n"
        f"resume    python -m experiments.train --resume {run.path}   (after an interruption)",
        highlight=False,
        soft_wrap=True,
    )


if __name__ == "__main__":
    cli.run(main)
