"""The end of a run: the trained model measured on the test split, and final/ written in one step."""

import json
from typing import Any

from experiments.run import pointer_map
from experiments.run.config import Config
from experiments.run.directory import RunDirectory
from experiments.run.provenance import inputs
from experiments.run.recorder import Recorder
from tying.config import flat
from tying.files import replacing, write_checksums
from tying.training import checkpoint


def write_final(directory: RunDirectory, config: Config, recorder: Recorder) -> None:
    """Evaluate on the whole test split and write final/: model, pointers, summary, agent, picture of the tying."""
    trainer = recorder.trainer
    directory.require_decisions(recorder.lines)
    summary = _summarise(config, recorder)
    figures = {k: summary[k] for k in ("test_loss", "trainable_params", "num_unique_layers")}
    figures |= {k: v for k, v in summary.items() if k.startswith("test_")}
    title = f"{config.preset}, {config.agent.name}, seed {config.run.seed} (colour: set of weights, bold: its owner)"
    drawn = pointer_map.draw(recorder.history, title=title)
    recorder.finish(flat(config.resolved()), figures, summary["references"], pointer_map.to_array(drawn))
    with replacing(directory.final) as temporary:
        temporary.mkdir()
        checkpoint.save_tensors(trainer.state_dict()["model"], temporary / "model.safetensors")
        (temporary / "pointers.json").write_text(json.dumps(trainer.pointers.to_list()) + "\n")
        (temporary / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
        trainer.task.export(trainer.model, temporary)
        recorder.agent.save(temporary / "agent")
        drawn.savefig(temporary / "pointer_map.png", dpi=130)
        write_checksums(temporary)


def _summarise(config: Config, recorder: Recorder) -> dict[str, Any]:
    trainer, records = recorder.trainer, [line.record for line in recorder.lines]
    metrics = trainer.metrics("test")
    metrics |= trainer.task.other_units("test", metrics["loss"])
    return {
        "agent": config.agent.name,
        "seed": config.run.seed,
        "preset": config.preset,
        "task": config.task.name,
        "loss_unit": f"nats per {trainer.task.unit}",
        "pointers": trainer.pointers.to_list(),
        "num_layers": len(trainer.pointers),
        "num_unique_layers": trainer.pointers.num_unique,
        "effective_blocks": trainer.pointers.effective_blocks,
        "trainable_params": trainer.trainable_params,
        "trainable_block_params": trainer.binding.trainable_params,
        "independent_params": trainer.independent_params,
        "independent_block_params": records[-1].independent_block_params,
        **config.model.figures(trainer.pointers),
        "iterations": trainer.iteration,
        "tokens": trainer.tokens,
        "decisions": sum(not record.frozen for record in records),
        "changes": sum(record.changed for record in records),
        **{f"test_{name}": value for name, value in metrics.items()},
        "reward_loss": records[-1].reward_loss,
        "wall_s": recorder.wall_s,
        "train_s": sum(record.train_s for record in records),
        "decision_s": sum(line.decision_s for line in recorder.lines),
        "evaluate_s": sum(record.evaluate_s for record in records),
        **inputs(trainer.task, recorder.agent),
        "references": trainer.task.references(),  # last, since what it takes is no time of the run
    }
