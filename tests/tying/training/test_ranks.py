"""Several processes that train one model: equal to one process with the whole batch, and each set of weights sent once."""

import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from tests.launch import Launch
from tying import Pointers, Trainer
from tying.data.corpora import DataConfig
from tying.errors import InputError
from tying.models.config import GPTConfig
from tying.tasks.base import Batch
from tying.tasks.config import PHopConfig
from tying.tasks.p_hop import PHop
from tying.training import ranks as ranks_module
from tying.training.config import BindingConfig, OptimConfig, TrainerConfig
from tying.training.ranks import ALONE, Ranks, joined

SIZE, WINDOW = 2, 3
# Untied, tied, untied again, a jump, all tied.
PATTERNS = ("0 1 2 3", "0 0 2 2", "0 1 2 3", "0 1 1 0", "0 0 0 0")


def make(ranks: Ranks, dropout: float = 0.0, delta_rank: int = 0, **options: int) -> Trainer:
    """Return a trainer in float64, on a task whose sequences do not count the same number of predictions."""
    model = GPTConfig(num_layers=4, num_heads=2, width=8, context=12, dropout=dropout)
    task = PHop(PHopConfig(hops=2, alphabet=4, eval_sequences=32), model, DataConfig())
    config = TrainerConfig(**{"iterations": 60, "batch_size": 8, "device": "cpu", **options})  # type: ignore[arg-type]
    optim, binding = OptimConfig(learning_rate=1e-2, warmup_iterations=0), BindingConfig(delta_rank=delta_rank)
    made = Trainer(task, config, optim, binding, ranks=ranks)
    made.model.double()
    return made


def train(trainer: Trainer) -> list[float]:
    """Train a window under every pattern; return the losses of batches and of evaluations."""
    losses = []
    for pattern in PATTERNS:
        trainer.rebind(Pointers.parse(pattern))
        losses += [done.loss for done in trainer.train(WINDOW)]
        losses.append(trainer.evaluate("reward", 1))
    return losses


def train_as_rank() -> None:
    sent: list[int] = []
    all_reduce = dist.all_reduce

    def counted(tensor: Tensor) -> None:
        sent.append(tensor.nbytes)
        all_reduce(tensor)

    dist.all_reduce = counted
    ranks_module._BUCKET = 4096  # several buckets of a model this small
    with joined() as ranks:
        trainer = make(ranks, micro_batches=2)
        params: list[int] = []
        rebind = trainer.rebind
        trainer.rebind = lambda pointers: (sent.append(-1), rebind(pointers), params.append(trainer.trainable_params))  # type: ignore[method-assign]
        losses = train(trainer)
        dist.all_reduce = all_reduce
        state = trainer.state_dict()
        others = make(ranks, delta_rank=2)
        with_deltas = train(others), others.state_dict()["model"]
        own = torch.nn.Parameter(torch.tensor([float(ranks.rank)]))
        ranks.agree([own])
        assert own.tolist() == [0.0]
        torch.save((losses, state["model"], state["optimizer"], with_deltas, sent, params), f"{ranks.rank}.pt")
        assert ranks.rank == 0 or ranks.hear() is None  # rank 0 leaves the block


def hang_as_rank() -> None:
    """Rank 1 comes, and never answers."""
    ranks_module._PATIENCE = timedelta(seconds=2)
    with joined() as ranks:
        if ranks.rank == 1:
            while not Path("given-up").exists():
                time.sleep(0.01)
        else:
            with pytest.raises(ConnectionError, match="has ended, or does not answer"):
                ranks.add_up(torch.zeros(()), [])
            Path("given-up").touch()
        raise SystemExit(3)  # not to meet again at the end


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[list[float], dict, dict, tuple, list[int], list[int]]]:
    """Losses, weights, moments, losses and weights with low-rank deltas, bytes and parameters of each rank."""
    folder = tmp_path_factory.mktemp("ranks")
    finished = Launch(folder, SIZE, train_as_rank).wait()
    assert [done.status for done in finished] == [0] * SIZE, finished
    return [torch.load(folder / f"{rank}.pt") for rank in range(SIZE)]


def test_two_ranks_equal_one_process_while_pointers_move(results: list, one_thread: None) -> None:
    alone = make(ALONE, micro_batches=2)
    losses = train(alone)
    state = alone.state_dict()
    for found, model, optimizer, *_ in results:
        assert found == pytest.approx(losses, rel=1e-6)
        assert optimizer.keys() == state["optimizer"].keys() and model.keys() == state["model"].keys()
        for name, value in {**state["model"], **state["optimizer"]}.items():
            torch.testing.assert_close({**model, **optimizer}[name], value, rtol=1e-6, atol=1e-9)


def test_ranks_have_the_same_bits(results: list) -> None:
    first, second = results
    assert first[0] == second[0]
    assert all(torch.equal(first[1][name], second[1][name]) for name in first[1])


def test_low_rank_deltas_are_the_same_on_every_rank(results: list, one_thread: None) -> None:
    alone = make(ALONE, delta_rank=2)
    losses = train(alone)
    (first, model), (second, other) = (found[3] for found in results)
    assert first == second and first == pytest.approx(losses, rel=1e-6)
    assert all(torch.equal(model[name], other[name]) for name in model | other)
    for name, value in alone.state_dict()["model"].items():
        torch.testing.assert_close(model[name], value, rtol=1e-6, atol=1e-9)


def test_each_set_of_weights_is_sent_once(results: list) -> None:
    loss = 4
    for *_, sent, params in results:
        windows = [[int(n) for n in text.split()] for text in " ".join(map(str, sent)).split("-1")[1:]]
        assert [sum(window) for window in windows] == [WINDOW * (loss + 8 * number) for number in params]
        assert len(windows[0]) > len(windows[-1]) > 2 * WINDOW
        untied, halved, _, _, single = params
        assert untied - single == 3 * (untied - halved) / 2 > single / 2


def test_a_rank_that_never_answers_is_given_up(tmp_path: Path) -> None:
    assert [done.status for done in Launch(tmp_path, 2, hang_as_rank).wait()] in ([3, 1], [1, 3])


# What one process decides for itself.


def batches(rows: Sequence[Tensor], parts: int) -> list[Tensor]:
    return [part for own in rows for part in own.chunk(parts)]


@pytest.mark.parametrize(("size", "parts"), [(1, 3), (2, 1), (3, 2)])
def test_shares_are_the_batch_and_their_losses_add_up_to_its_loss(size: int, parts: int) -> None:
    counted = torch.tensor([1, 0, 1, 1, 0, 0, 1, 1, 1, 0, 1, 0]).bool()
    values = torch.arange(12.0, dtype=torch.float64)

    def count(batch: Batch) -> int:
        return int(batch[1].sum())

    def loss(batch: Batch) -> Tensor:
        return (batch[0] * batch[1]).sum() / max(count(batch), 1)

    shares = [Ranks(rank, size).share((values, counted), parts, count) for rank in range(size)]
    assert sorted(torch.cat([own[0] for own, _ in shares]).tolist()) == values.tolist()
    whole = sum(loss(part) for part in zip(values.chunk(parts), counted.chunk(parts), strict=True)) / parts
    total = sum(
        loss(part) / divisor
        for own, divisors in shares
        for divisor, *part in zip(divisors, *(tensor.chunk(parts) for tensor in own), strict=True)
    )
    torch.testing.assert_close(total, whole)


def test_rows_that_count_nothing_weigh_nothing() -> None:
    targets = torch.tensor([0, 0, 1, 1])
    divisors = [Ranks(rank, 2).share((targets,), 1, lambda batch: int(batch[0].sum()))[1] for rank in range(2)]
    assert divisors == [[float("inf")], [1.0]]


@pytest.mark.parametrize(
    ("size", "parts", "line"),
    [(3, 1, "8: must be a multiple of 3 processes"), (2, 8, "8: must be a multiple of 2 processes x 8 trainer.micro_batc")],
)
def test_a_batch_that_cannot_be_shared_out_is_refused(size: int, parts: int, line: str) -> None:
    with pytest.raises(InputError, match=f"trainer.batch_size = {line}"):
        make(Ranks(0, size), micro_batches=parts)


@pytest.mark.parametrize(("dropout", "equal"), [(0.0, True), (0.3, False)])
def test_dropout_is_another_one_on_every_rank(monkeypatch: pytest.MonkeyPatch, dropout: float, equal: bool) -> None:
    batch = PHop.batch
    # Both ranks get the same rows, and are asked for their own losses.
    monkeypatch.setattr(PHop, "batch", lambda *args: tuple(t[:4].repeat(2, 1) for t in batch(*args)))
    monkeypatch.setattr(Ranks, "add_up", lambda *_: None)
    first, second, alone = (make(ranks, dropout).train(1)[0].loss for ranks in (Ranks(0, 2), Ranks(1, 2), ALONE))
    assert (first == second) is equal
    assert equal is (2 * first == pytest.approx(alone, rel=1e-6))


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[int]]:
    """Two GPUs, and the devices that were made the current one."""
    current: list[int] = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    return lambda: current


def test_each_rank_has_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch, cuda: Callable[[], list[int]]) -> None:
    monkeypatch.setenv("LOCAL_RANK", "1")  # the second of its machine, the sixth of all
    assert Ranks(5, 6).device(torch.device("cuda")) == torch.device("cuda", 1)
    assert cuda() == [1]
    assert ALONE.device(torch.device("cuda")) == torch.device("cuda")
    assert Ranks(5, 6).device(torch.device("cpu")) == torch.device("cpu")
    assert cuda() == [1]


@pytest.mark.parametrize(("device", "local"), [("cuda", "2"), ("mps", "0")])
def test_ranks_without_a_gpu_of_their_own_are_refused(
    monkeypatch: pytest.MonkeyPatch, cuda: Callable[[], list[int]], device: str, local: str
) -> None:
    monkeypatch.setenv("LOCAL_RANK", local)
    with pytest.raises(InputError, match=f"trainer.device = '{device}': each process needs a CUDA device"):
        Ranks(2, 3).device(torch.device(device))
    assert cuda() == []


def test_variables_of_a_single_process_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"RANK": "0", "WORLD_SIZE": "1"}.items():
        monkeypatch.setenv(name, value)
    with joined() as ranks:
        assert ranks is ALONE and not dist.is_initialized()
