"""The end of a run: the trained model measured on the test split, and final/ written in one step."""

import json
from typing import Any

from experiments.recorder import Recorder
from experiments.settings import Settings
from tying import checkpoint, pointer_map
from tying.files import replacing
from tying.records import RunDirectory, perplexity


def write_final(run: RunDirectory, settings: Settings, recorder: Recorder) -> None:
    """Evaluate on the whole test split and write final/: model, pointers, summary, agent, picture of the tying."""
    trainer = recorder.trainer
    summary = _summarise(settings, recorder)
    figures = {k: summary[k] for k in ("test_loss", "test_ppl", "trainable_params", "num_unique_layers")}
    recorder.finish(settings.flat(), figures)
    with replacing(run.final) as temporary:
        temporary.mkdir()
        checkpoint.save_tensors(trainer.state_dict()["model"], temporary / "model.safetensors")
        (temporary / "pointers.json").write_text(json.dumps(list(trainer.pointers)) + "\n")
        (temporary / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
        recorder.agent.save(temporary / "agent")
        title = f"{settings.preset}, {settings.agent}, seed {settings.run.seed} (colour: set of weights, bold: its owner)"
        pointer_map.draw(recorder.history, title=title).savefig(temporary / "pointer_map.png", dpi=130)


def _summarise(settings: Settings, recorder: Recorder) -> dict[str, Any]:
    trainer, lines = recorder.trainer, recorder.lines
    test_loss = trainer.evaluate("test")
    return {
        "agent": settings.agent,
        "seed": settings.run.seed,
        "preset": settings.preset,
        "pointers": list(trainer.pointers),
        "num_layers": len(trainer.pointers),
        "num_unique_layers": trainer.pointers.num_unique,
        "trainable_params": trainer.trainable_params,
        "trainable_block_params": trainer.binding.trainable_params,
        "independent_params": trainer.independent_params,
        "independent_block_params": lines[-1]["independent_block_params"],
        "iterations": trainer.iteration,
        "tokens": trainer.tokens,
        "decisions": sum(not line["frozen"] for line in lines),
        "test_loss": test_loss,
        "test_ppl": perplexity(test_loss),
        "reward_loss": lines[-1]["reward_loss"],
        "wall_s": recorder.wall_s,
        "train_s": recorder.total("train_s"),
        "decision_s": recorder.total("decision_s"),
        "evaluate_s": recorder.total("evaluate_s"),
        "corpus_sha256": trainer.data.corpus_sha256,
    }
