"""What a run's TensorBoard file holds, read back as TensorBoard reads it."""

import json
import re
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from experiments.run import cli
from experiments.run.tensorboard import TensorBoardLogger
from experiments.train import main
from tests.conftest import ROOT, single_thread, words
from tying.pointers import Pointers
from tying.training.record import StepRecord

NUM_LAYERS, ITERATIONS, INTERVAL, LOG_INTERVAL = 3, 24, 4, 3
SETTINGS = (
    f"--preset tiny --model.num-layers {NUM_LAYERS} --model.width 8 --trainer.iterations {ITERATIONS} "
    f"--env.decision-interval {INTERVAL} --log-interval {LOG_INTERVAL} --optim.warmup-iterations 2"
).split()
# Every agent with tags of its own, and every reward.
RUNS = {
    "dqn": "--agent dqn --agent.learning-starts 2",
    "ppo": "--agent ppo --agent.n-steps 2 --reward level",
    "maskable_ppo": "--agent maskable_ppo --agent.n-steps 2 --reward paper",
    "a2c": "--agent a2c --agent.n-steps 2 --env.action-mode joint",
    "random": "--agent random --reward fork --reward.baseline 0.9 --reward.param-target 0.5",
}
EVERY_ITERATION = {"lm/train_loss", "lm/lr", "lm/grad_norm", "lm/tokens", "perf/tokens_per_s"}
EVERY_DECISION = {
    "lm/reward_loss",
    "lm/reward_ppl",
    "tying/num_unique_layers",
    "tying/effective_blocks",
    "tying/trainable_params",
    "tying/compression_ratio",
    "reward/total",
    "reward/param_weight",
    "perf/train_s",
    "perf/decision_s",
    *(f"tying/pointer/layer_{layer:02d}" for layer in range(NUM_LAYERS)),
}


@pytest.fixture(scope="module", params=RUNS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run of one agent."""
    folder = tmp_path_factory.mktemp("runs")
    (folder / "corpus.txt").write_text(words(4_000), encoding="utf-8")
    flags = ["--data.path", str(folder / "corpus.txt"), "--out", str(folder / request.param)]
    with single_thread():
        assert cli.status(main, [*SETTINGS, *RUNS[request.param].split(), *flags]) == 0
    return folder / request.param


def read(folder: Path) -> EventAccumulator:
    """Return a run's events; none are left out."""
    events = EventAccumulator(str(folder / "tb"), size_guidance={"scalars": 0, "images": 0, "tensors": 0})
    events.Reload()
    return events


@pytest.fixture(scope="module")
def events(folder: Path) -> EventAccumulator:
    """The run's events."""
    return read(folder)


@pytest.fixture(scope="module")
def lines(folder: Path) -> list[dict]:
    """The run's decisions."""
    return [json.loads(line) for line in (folder / "decisions.jsonl").read_text().splitlines()]


def steps(events: EventAccumulator, tag: str) -> list[int]:
    return [event.step for event in events.Scalars(tag)]


def values(events: EventAccumulator, tag: str) -> list[float]:
    return [event.value for event in events.Scalars(tag)]


def test_every_tag_of_the_contract_is_there(events: EventAccumulator) -> None:
    assert set(events.Tags()["scalars"]) >= EVERY_ITERATION | EVERY_DECISION


def test_training_figures_stand_at_their_iterations(events: EventAccumulator) -> None:
    expected = list(range(LOG_INTERVAL, ITERATIONS + 1, LOG_INTERVAL))
    assert {tag: steps(events, tag) for tag in EVERY_ITERATION} == dict.fromkeys(EVERY_ITERATION, expected)


def test_decision_figures_stand_at_the_end_of_their_windows(events: EventAccumulator) -> None:
    expected = list(range(INTERVAL, ITERATIONS + 1, INTERVAL))
    assert {tag: steps(events, tag) for tag in EVERY_DECISION} == dict.fromkeys(EVERY_DECISION, expected)


def test_no_event_stands_off_the_iterations_of_the_run(events: EventAccumulator) -> None:
    assert all(0 <= step <= ITERATIONS for tag in events.Tags()["scalars"] for step in steps(events, tag))


def test_figures_are_those_of_the_decisions(events: EventAccumulator, lines: list[dict]) -> None:
    assert values(events, "lm/reward_loss") == pytest.approx([line["reward_loss"] for line in lines])
    assert values(events, "reward/total") == pytest.approx([line["reward"] for line in lines])
    for name in lines[0]["reward_terms"]:
        assert values(events, f"reward/{name}") == pytest.approx([line["reward_terms"][name] for line in lines])
    assert values(events, "reward/param_weight") == pytest.approx([line["param_weight"] for line in lines])
    effective = [Pointers(line["pointers"]).effective_blocks for line in lines]
    assert values(events, "tying/effective_blocks") == pytest.approx(effective)
    for layer in range(NUM_LAYERS):
        tag = f"tying/pointer/layer_{layer:02d}"
        assert values(events, tag) == [line["pointers"][layer] for line in lines]


def test_what_the_agent_thinks_is_logged(events: EventAccumulator, lines: list[dict]) -> None:
    logged = {tag for tag in events.Tags()["scalars"] if tag.startswith("agent/")}
    expected = set()
    for name, value in lines[0]["agent"].items():
        parts = range(len(value)) if isinstance(value, list) else []
        expected |= {f"agent/{name}/{action:02d}" for action in parts} or {f"agent/{name}"}
    for name in ("explored", "action_value"):
        known = [line[name] for line in lines if line[name] is not None]
        if known:
            expected.add(f"agent/{name}")
            assert values(events, f"agent/{name}") == pytest.approx([float(value) for value in known])
    assert logged == expected


def test_final_figures_are_those_of_the_summary(folder: Path, events: EventAccumulator) -> None:
    summary = json.loads((folder / "final" / "summary.json").read_text())
    for name in ("test_loss", "test_ppl", "trainable_params", "num_unique_layers"):
        (event,) = events.Scalars(f"final/{name}")
        assert event.step == ITERATIONS
        assert event.value == pytest.approx(summary[name])


def test_counting_models_are_level_lines_over_the_whole_run(folder: Path, events: EventAccumulator) -> None:
    references = json.loads((folder / "final" / "summary.json").read_text())["references"]
    assert len(references) == 5
    for name, loss in references.items():
        assert steps(events, f"references/{name}") == [0, ITERATIONS]
        assert values(events, f"references/{name}") == pytest.approx([loss, loss])


def test_pointer_map_is_a_picture_at_the_end(events: EventAccumulator) -> None:
    pictures = events.Images("tying/pointer_map")
    assert pictures[-1].step == ITERATIONS
    assert pictures[-1].width > pictures[-1].height > 50
    assert pictures[-1].encoded_image_string.startswith(b"\x89PNG")


def test_config_text_is_the_config(folder: Path, events: EventAccumulator) -> None:
    (event,) = events.Tensors("config/text_summary")
    text = event.tensor_proto.string_val[0].decode()
    config = json.loads((folder / "config.json").read_text())
    assert json.loads(text.removeprefix("```json").removesuffix("```")) == config


def test_settings_are_in_the_hparams_tab(events: EventAccumulator) -> None:
    assert "_hparams_/session_start_info" in events.summary_metadata


@pytest.mark.parametrize(("perplexity", "tags"), [("", set()), ("masked_ppl", {"lm/reward_masked_ppl"})])
def test_huge_loss_can_be_written_and_has_the_tasks_perplexity(tmp_path: Path, perplexity: str, tags: set[str]) -> None:
    logger = TensorBoardLogger(tmp_path / "tb", None, batch_tokens=1, perplexity=perplexity)
    tied = Pointers((0, 0))
    record = StepRecord(
        decision=0, iteration=4, num_iterations=4, pointers=tied, previous_pointers=tied, reward_loss=1e6, block_params=1
    )
    logger.decision(record, compression_ratio=1.0, trainable_params=1, decision_s=0.0)
    logger.close()
    events = read(tmp_path)
    assert values(events, "lm/reward_loss") == [1e6]
    assert {tag for tag in events.Tags()["scalars"] if "ppl" in tag} == tags


def normal(tag: str) -> str:
    """Replace the numbers of layers and actions, which a page writes as NN."""
    return re.sub(r"(?<=[_/])\d+$", "NN", tag)


def test_every_tag_is_defined_on_the_tags_page(events: EventAccumulator) -> None:
    page = set(map(normal, re.findall(r"`([^`\s]+)`", (ROOT / "docs" / "tags.md").read_text(encoding="utf-8"))))
    tags = events.Tags()
    texts = [tag.removesuffix("/text_summary") for tag in tags["tensors"]]
    assert {normal(tag) for tag in [*tags["scalars"], *tags["images"], *texts]} - page == set()


@pytest.mark.usefixtures("one_thread")
def test_resuming_writes_no_event_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from experiments.run.recorder import Recorder

    (tmp_path / "corpus.txt").write_text(words(4_000), encoding="utf-8")
    flags = ["--data.path", str(tmp_path / "corpus.txt"), "--out", str(tmp_path / "run"), "--checkpoint-interval", "3"]
    on_decision = Recorder.on_decision

    def interrupt(self: Recorder, decision: object, *arguments: object) -> None:
        on_decision(self, decision, *arguments)
        if len(self.lines) == 5:  # two decisions after the checkpoint: they are taken once more
            self.logger.flush()
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Recorder, "on_decision", interrupt)
        assert cli.status(main, [*SETTINGS, "--agent", "random", *flags]) == 130
    assert cli.status(main, ["--resume", str(tmp_path / "run")]) == 0
    events = read(tmp_path / "run")
    assert steps(events, "lm/reward_loss") == list(range(INTERVAL, ITERATIONS + 1, INTERVAL))
    assert steps(events, "lm/train_loss") == list(range(LOG_INTERVAL, ITERATIONS + 1, LOG_INTERVAL))
