"""The settings of `experiments.compress`: its own flags, and those of a run for the task, the data and healing."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from experiments.run import cli
from experiments.run.command_line import parse_config
from experiments.run.config import Config
from tying.config import config, setting
from tying.errors import InputError

DEFAULT_SEARCH = "measured"
_SHORT_NAMES = {"local": "local_search"}  # of agents
_RANKED = "env.action_mode = 'cursor_rank'"
# Beneath a person's flags: small steps, and questions of a tenth of a second for a model of a hundred megabytes.
_HEALING = {
    "trainer.iterations": 200,
    "trainer.batch_size": 8,
    "optim.learning_rate": 1e-4,
    "optim.weight_decay": 0.01,
    "optim.tied_rate": 0.0,
    "reward.num_batches": 4,
}
_PRETRAINED = {"task.head": "embedding", "model.context": 32, "data.corpus": "python-docs"}


@config
class CompressFlags:
    """Compress a trained model: tie or remove layers by measurement, heal the copy, and say what it costs.

    Every other flag is one of experiments.train, for the task, the data and healing: --task.head, --data.path,
    --trainer.iterations (of healing), --optim.learning-rate, ...
    """

    model: str = cli.positional(
        "a finished run, a folder or hub name of transformers, or package.module:function, which returns a model and its "
        "task, or a model, its loss and its batches"
    )
    target: list[float] = setting(
        "sets of block weights to keep, as a share of the original's, rounded down [above 0, below 1]; several for a "
        "curve, of which the first is saved as model/ (default 0.5)",
        default=[],
    )
    unique: list[int] = setting("the same as numbers of sets [sets, >= 1]", default=[])
    out: str | None = setting("folder of the result, new or to resume", default=None)
    search: str = setting(
        f"{DEFAULT_SEARCH}: every pattern up to 8 layers, single changes and their sums beyond; or an agent's name (local: "
        "local_search), which decides in tying/Compressing-v0",
        default=DEFAULT_SEARCH,
    )
    objective: Literal["loss", "kl"] = setting(
        "damage that is asked for and healed; loss: the task's own; kl: of causal language models, the KL divergence of "
        "next-token distributions from the original's [nats per token]",
        default="loss",
    )
    decisions: int = setting("decisions of an agent that searches [>= 1]", default=100, ge=1)
    removing: bool = setting("whether layers may be removed as well as tied", default=True)
    shortlist: int = setting("patterns that are healed for a short time, to choose among them [>= 1]", default=3, ge=1)
    short: float = setting("length of that short healing, as a share of the whole [above 0 to 1]", default=0.2, gt=0, le=1)
    seeds: int = setting("seeds of that short healing; intervals are shown from three on [>= 1]", default=1, ge=1)
    heal_rules: bool = setting("heal every fixed rule, not only the best of each kind", default=False)
    layer_weight: float = setting(
        "weight of the distance to the original's activations in healing; 0: the task's loss alone [>= 0]",
        default=1.0,
        ge=0,
    )
    test_batches: int = setting("batches of the test split that results are reported on [>= 1]", default=16, ge=1)
    trust: bool = setting("import the code that the run's files name: its model, task or reward", default=False)

    def __post_init__(self) -> None:
        if self.target and self.unique:
            raise InputError("--target and --unique are both set: give one of them")
        wrong = [share for share in self.target if not 0 < share < 1]
        if wrong:
            raise InputError(f"--target {wrong[0]}: allowed are shares above 0 and below 1")
        if min(self.unique, default=1) < 1:
            raise InputError(f"--unique {min(self.unique)}: a model keeps at least 1 set")

    def sizes(self, num_layers: int) -> list[int]:
        """Return the numbers of sets to reach, the first one first.

        Raises:
            InputError: If the model has no more layers than that, or a share of them is less than one.
        """
        if num_layers < 2:
            raise InputError("the model has 1 layer: there is nothing to tie or to remove")
        shares = self.target or [0.5]
        sizes = self.unique or [int(share * num_layers + 1e-9) for share in shares]
        if max(sizes) >= num_layers:
            raise InputError(f"--unique {max(sizes)}: the model has {num_layers} sets; allowed are 1 to {num_layers - 1}")
        if min(sizes) < 1:
            least = math.ceil(1000 / num_layers) / 1000
            raise InputError(f"--target {min(shares)}: the model has {num_layers} sets; the least is {least}, 1 set")
        return list(dict.fromkeys(sizes))


@dataclass(frozen=True)
class Compression:
    """What is compressed, and how.

    Attributes:
        flags: The script's own.
        config: The task, the data and healing.
        out: The result's folder.
        kind: What the model is: "run", "pretrained" or "function".
        words: The call.
    """

    flags: CompressFlags
    config: Config
    out: Path
    kind: str
    words: tuple[str, ...]

    @property
    def command(self) -> list[str]:
        """The call as a person types it, word by word."""
        return ["python", "-m", "experiments.compress", *self.words]


def parse(words: Sequence[str]) -> Compression:
    """Read the command line; nothing is read but configurations, and nothing is written.

    Raises:
        InputError: With one line for every mistake.
    """
    flags, rest = cli.read_own(CompressFlags, words, "experiments.compress", keep_rest=True)
    kind = _kind(flags.model)
    beneath: dict[str, object] = dict(_HEALING)
    given: list[str] = []
    if kind == "run":
        given = ["--config", str(Path(flags.model) / "config.json"), *(["--trust"] if flags.trust else [])]
    elif kind == "pretrained":
        given = ["--task", "hf", "--model.pretrained", flags.model]
        beneath |= _PRETRAINED
    if flags.search != DEFAULT_SEARCH:
        given += ["--agent", _SHORT_NAMES.get(flags.search, flags.search)]
    flagged = [f"--{name.replace('_', '-')}={value}" for name, value in beneath.items()]
    mistakes: list[str] = []
    made = parse_config([*given, *flagged, *rest], mistakes)
    mistakes = _without_ranks(flags.search, made, mistakes)
    charge = [word for word in rest if word.replace("_", "-").startswith(("--reward.param-weight", "--reward.param-free"))]
    if charge:
        mistakes.append(f"{charge[0]}: --target or --unique says how many parameters there may be; leave it out")
    if flags.out is None:
        mistakes.append("--out is missing: the folder of the result")
    mistakes += [] if made is None else _excluded(made, flags)
    if mistakes or made is None:
        raise InputError(mistakes)
    return Compression(flags, made, Path(str(flags.out)), kind, tuple(words))


def _excluded(made: Config, flags: CompressFlags) -> list[str]:
    """Return a line for everything that a trained model cannot be compressed with."""
    mistakes = []
    rank, start = made.binding.delta_rank, made.binding.delta_start
    if rank and start != "svd":
        mistakes.append(f"binding.delta_start = {start!r}: ties of trained layers remember them; set it to svd")
    if rank and flags.search != DEFAULT_SEARCH and made.env.action_mode != "cursor_rank":
        mistakes.append(
            f"binding.delta_rank = {rank}: --search {flags.search} is charged for sets of weights, which leaves out the "
            "parameters of deltas; set it to 0, or leave out --search"
        )
    try:
        made.model.check_apart()
    except InputError as error:
        mistakes += error.lines
    return mistakes


def _without_ranks(search: str, made: Config | None, mistakes: list[str]) -> list[str]:
    """Return the mistakes of a call whose agent may not decide ranks, instead of a line that asks for a rank."""
    others = [line for line in mistakes if not line.startswith(_RANKED)]
    ranked = others != mistakes or (made is not None and made.env.action_mode == "cursor_rank")
    if search == DEFAULT_SEARCH or not ranked:
        return mistakes
    return [
        *others,
        f"{_RANKED}: an agent that searches has no deltas whose ranks it could decide; set another mode, and leave out "
        "--binding.delta-rank",
    ]


def _kind(model: str) -> str:
    if (Path(model) / "decisions.jsonl").is_file():
        return "run"
    if ":" in model and not Path(model).exists():
        return "function"
    return "pretrained"
