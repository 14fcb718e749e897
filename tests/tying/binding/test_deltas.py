"""Low-rank deltas: exact ties and unties, gradients, counts, and the optimizer, over all partitions of five layers."""

import copy
import itertools
from typing import Any

import pytest
import torch
from blocks import adamw, batch, perturb, slots, step, tiny_gpt
from families import FAMILIES
from torch import Tensor, nn

import tying.hf
from tying import LayerBinding, Pointers
from tying.binding import Deltas
from tying.binding.deltas import DeltaLinear
from tying.errors import InputError
from tying.models.gpt import GPT

LINEARS = ("attn.qkv", "attn.proj", "mlp.up", "mlp.down")
PARTITIONS = list(Pointers.all(5))
# Ties, an untie, a promotion (layer 1 leaves, layer 2 gets its weights), one with a re-target, and jumps.
CHAIN = [" ".join(digits) for digits in "00033 01114 00224 01111 00222 01234 00000 01131 01031".split()]


Bound = tuple[GPT, torch.optim.AdamW, LayerBinding]


def bound(rank: int = 2, start: str = "svd", layers: int = 5, **options: Any) -> Bound:
    """Return a model, its optimizer and its binding."""
    model = tiny_gpt(layers)
    perturb(model.h)  # for every singular value to count
    optimizer = adamw(model)
    return model, optimizer, LayerBinding(model.h, optimizer, deltas=Deltas(rank, start), **options)


def effective(model: GPT) -> list[dict[str, Tensor]]:
    """Return the weights that every position computes with."""
    found = []
    for block in model.h:
        own = {name: p.detach().clone() for name, p in slots(block).items() if "delta" not in name}
        for path in LINEARS:
            module = block.get_submodule(path)
            if getattr(module, "delta_a", None) is not None:
                own[f"{path}.weight"] += (module.delta_b @ module.delta_a).detach()
        found.append(own)
    return found


def plain_twin(model: GPT) -> GPT:
    """Return an untied model without deltas that computes with the same weights."""
    twin = tiny_gpt(len(model.h))
    rest = {name: value for name, value in model.state_dict().items() if not name.startswith("h.")}
    layers = {f"h.{i}.{name}": value for i, own in enumerate(effective(model)) for name, value in own.items()}
    twin.load_state_dict({**rest, **layers})
    return twin


def loss(model: nn.Module) -> Tensor:
    return model.loss(*batch(1)).detach()  # type: ignore[operator]


def names_of(optimizer: torch.optim.Optimizer, model: nn.Module) -> list[list[str]]:
    name = {id(p): n for n, p in model.named_parameters()}
    return [[name[id(p)] for p in group["params"]] for group in optimizer.param_groups]


def test_no_deltas_is_the_model_without_the_option() -> None:
    model = tiny_gpt(3)
    keys, modules = list(model.state_dict()), [type(module) for module in model.modules()]
    binding = LayerBinding(model.h, deltas=Deltas(0))
    binding.rebind("0 0 0")
    assert list(model.state_dict()) == keys
    assert [type(module) for module in model.modules()] == modules


@pytest.mark.parametrize("start", ["svd", "zero"])
def test_without_ties_training_is_that_of_a_model_without_deltas(start: str) -> None:
    model, plain = tiny_gpt(3), tiny_gpt(3)
    optimizer, other = adamw(model), adamw(plain)
    binding = LayerBinding(model.h, optimizer, deltas=Deltas(2, start))
    LayerBinding(plain.h, other)
    assert [step(model, optimizer, i) for i in range(3)] == [step(plain, other, i) for i in range(3)]
    assert list(model.state_dict()) == list(plain.state_dict())
    assert binding.trainable_params == sum(p.numel() for p in plain.h.parameters())


def test_a_zero_start_computes_as_the_tied_model_bit_by_bit() -> None:
    for pointers in PARTITIONS[::3]:
        model, plain = tiny_gpt(5), tiny_gpt(5)
        LayerBinding(model.h, deltas=Deltas(2, "zero")).rebind(pointers)
        LayerBinding(plain.h).rebind(pointers)
        assert torch.equal(model(batch()[0]), plain(batch()[0]))


def test_the_error_of_a_tie_is_what_the_singular_values_beyond_the_rank_say() -> None:
    errors = []
    for rank in range(1, 9):
        model, _, binding = bound(rank)
        before = effective(model)
        binding.rebind("0 1 2 1 4")
        after = effective(model)
        for path in LINEARS:
            name = f"{path}.weight"
            beyond = torch.linalg.svdvals(before[3][name] - before[1][name])[rank:]
            error = torch.linalg.norm(after[3][name] - before[3][name])
            torch.testing.assert_close(error, beyond.square().sum().sqrt(), rtol=0, atol=1e-10)
        assert all(p.is_contiguous() for p in binding.deltas.live[3])  # as moments from a file are
        errors.append(float(error))
    assert all(low < high - 1e-3 for high, low in itertools.pairwise(errors))


@pytest.mark.parametrize("start", ["svd", "zero"])
def test_every_root_keeps_what_it_computed_with_and_every_parameter_is_held_once(start: str) -> None:
    model, optimizer, binding = bound(2, start)
    step(model, optimizer)
    for number, text in enumerate(CHAIN * 2):
        before, old = effective(model), binding.pointers
        moments = {n: optimizer.state[p]["exp_avg"].clone() for n, p in model.named_parameters(remove_duplicate=False)}
        kept = [{n: p for n, p in block.named_parameters() if "delta" in n} for block in model.h]
        binding.rebind(text)
        after, new = effective(model), binding.pointers
        for layer, root in enumerate(new):
            held = {n: p for n, p in slots(model.h[layer]).items() if "delta" in n}
            assert len(held) == (0 if layer == root else 2 * len(LINEARS))
            if layer == root:
                torch.testing.assert_close(after[layer], before[layer], rtol=0, atol=1e-13)
                for name, parameter in slots(model.h[layer]).items():
                    assert torch.equal(optimizer.state[parameter]["exp_avg"], moments[f"h.{layer}.{name}"])
            elif kept[layer] and root == old[layer]:
                assert all(held[name] is parameter for name, parameter in kept[layer].items())
            else:
                assert not any(parameter in optimizer.state for parameter in held.values())
        matrices = [n for n, p in model.named_parameters() if p.dim() >= 2]
        assert names_of(optimizer, model) == [matrices, [n for n, p in model.named_parameters() if p.dim() < 2]]
        assert set(optimizer.state) <= set(model.parameters())
        assert binding.trainable_params == binding.trainable_params_of(new) == sum(p.numel() for p in model.h.parameters())
        for i in range(3):
            step(model, optimizer, 3 * number + i)


def test_from_any_pattern_to_any_other_every_position_stays_as_near_as_the_rank_allows() -> None:
    """One rule for ties, unties, promotions, re-targets and jumps: E - W_root loses its singular values beyond the rank."""
    for old, new in itertools.product(Pointers.all(4), repeat=2):
        if new == (0, 0, 0, 0):  # the first: afresh, since sums of hundreds of merges lose digits
            model, _, binding = bound(2, layers=4, share="feed_forward")
        binding.rebind(old)
        with torch.no_grad():
            for parameter in itertools.chain(*binding.deltas.live):
                parameter.add_(0.1)
        before = effective(model)
        binding.rebind(new)
        after = effective(model)
        for (layer, root), path in itertools.product(enumerate(new), LINEARS[2:]):
            found, wanted, weight = (own[f"{path}.weight"] for own in (after[layer], before[layer], after[root]))
            error, beyond = torch.linalg.norm(found - wanted), torch.linalg.svdvals(wanted - weight)[2:]
            torch.testing.assert_close(error, beyond.square().sum().sqrt(), rtol=0, atol=1e-10)


@pytest.mark.parametrize(("start", "rank"), [("svd", 8), ("zero", 2), ("zero", 8)])
def test_a_promotion_keeps_the_new_root_exactly_and_the_others_as_near_as_the_rank_allows(rank: int, start: str) -> None:
    model, optimizer, binding = bound(rank, start)
    binding.rebind("0 1 1 1 4")
    for number in range(3):
        step(model, optimizer, number)
    weights, before = binding.weights_of(1), effective(model)
    binding.rebind("0 0 2 2 4")
    after = effective(model)
    assert binding.weights_of(2) == weights
    for path in LINEARS:
        name = f"{path}.weight"
        torch.testing.assert_close(after[2][name], before[2][name], rtol=0, atol=1e-13)
        beyond = torch.linalg.svdvals(before[3][name] - before[2][name])[rank:]
        error = torch.linalg.norm(after[3][name] - before[3][name])
        torch.testing.assert_close(error, beyond.square().sum().sqrt(), rtol=0, atol=1e-10)
        assert (error < 1e-10) == (rank == 8)


def assert_gradients_of_the_merged_model(model: GPT, binding: LayerBinding) -> None:
    """Check the weights' gradients, by the binding's option, and those of deltas by the chain rule."""
    twin = plain_twin(model)
    for made in (model, twin):
        made.zero_grad()
        made.loss(*batch(2)).backward()
    torch.testing.assert_close(loss(model), loss(twin), rtol=0, atol=1e-12)
    for group, path in itertools.product(binding.pointers.groups, LINEARS):
        found = {layer: twin.h[layer].get_submodule(path).weight.grad for layer in group}
        total = torch.stack(list(found.values())).sum(0)
        expected = {"sum": total, "mean": total / len(group), "root_only": found[group[0]]}[binding.gradient]
        torch.testing.assert_close(model.h[group[0]].get_submodule(path).weight.grad, expected, rtol=0, atol=1e-11)
        for layer in group[1:]:
            own = model.h[layer].get_submodule(path)
            if own.delta_a is not None:
                torch.testing.assert_close(own.delta_a.grad, own.delta_b.T @ found[layer], rtol=0, atol=1e-11)
                torch.testing.assert_close(own.delta_b.grad, found[layer] @ own.delta_a.T, rtol=0, atol=1e-11)


@pytest.mark.parametrize("gradient", ["sum", "mean", "root_only"])
@pytest.mark.parametrize("recompute", [False, True])
def test_gradients_are_those_of_the_merged_model_by_the_chain_rule(gradient: str, recompute: bool) -> None:
    model, optimizer, binding = bound(2, gradient=gradient)
    model.recompute = recompute
    for text in CHAIN:
        binding.rebind(text)
        step(model, optimizer)
        assert_gradients_of_the_merged_model(model, binding)


def test_after_a_zero_start_b_moves_first_and_a_from_the_second_step_on() -> None:
    model, optimizer, binding = bound(2, "zero", layers=3)
    binding.rebind("0 0 0")
    for number in range(2):
        step(model, optimizer, number)
        for block in model.h[1:]:
            for path in LINEARS:
                linear = block.get_submodule(path)
                assert linear.delta_b.grad.any()
                assert bool(linear.delta_a.grad.any()) == (number > 0)


def test_what_a_zero_start_draws_follows_from_the_seed_the_layer_and_the_place() -> None:
    def drawn(seed: int) -> list[Tensor]:
        model = tiny_gpt(3)
        torch.manual_seed(seed + 5)
        binding = LayerBinding(model.h, deltas=Deltas(2, "zero", seed))
        binding.rebind("0 0 0")
        return [own for layer in (1, 2) for own in binding.deltas.live[layer][::2]]

    assert all(torch.equal(a, b) for a, b in zip(drawn(0), drawn(0), strict=True))
    everything = [value.flatten()[:8] for seed in (0, 1) for value in drawn(seed)]
    assert len({tuple(value.tolist()) for value in everything}) == len(everything)


@pytest.mark.parametrize(("share", "linears"), [("attention", LINEARS[:2]), ("mlp.up.*", ("mlp.up",)), ("block", LINEARS)])
def test_only_weights_that_follow_the_pointers_have_deltas(share: str, linears: tuple[str, ...]) -> None:
    _, _, binding = bound(3, share=share)
    assert binding.deltas.names == [f"{path}.delta_{key}" for path in linears for key in "ab"]
    inside = {"attn.qkv": 8 + 24, "attn.proj": 8 + 8, "mlp.up": 8 + 32, "mlp.down": 32 + 8}
    tied = Pointers((0, 0, 0, 3, 4))
    shared = sum(p.numel() for p in binding.weights_of(0))
    expected = 2 * (3 * sum(inside[path] for path in linears) - shared)
    assert binding.trainable_params_of(tied) - binding.trainable_params_of(range(5)) == expected


def test_blocks_that_are_linear_layers_themselves_and_ones_tied_before() -> None:
    blocks = nn.ModuleList(nn.Linear(4, 4) for _ in range(3)).double()
    LayerBinding(blocks).rebind("0 1 1")
    x = torch.randn(5, 4, dtype=torch.float64)
    before = blocks[2](x)
    optimizer = torch.optim.AdamW(blocks.parameters())
    binding = LayerBinding(blocks, optimizer, deltas=Deltas(9))
    assert torch.equal(blocks[2](x), before)
    assert names_of(optimizer, blocks) == [[name for name, _ in blocks.named_parameters()]]
    assert [p.shape for p in binding.deltas.live[2]] == [(4, 4), (4, 4)]


def test_separated_and_untied_compute_as_the_layers_do() -> None:
    model, optimizer, binding = bound()
    binding.rebind("0 1 1 1 0")
    step(model, optimizer)
    before, keys = loss(model), list(model.state_dict())
    with pytest.raises(AttributeError, match="`weight` is not"):
        model.get_parameter("h.2.mlp.up.weight")  # W + B A there
    assert dict(model.named_parameters(remove_duplicate=False))["h.2.mlp.up.weight"] is model.h[1].mlp.up.weight
    with binding.separated():
        assert torch.equal(loss(model), before)
    with binding.untied():
        assert list(model.state_dict()) == list(tiny_gpt(5).state_dict())
        torch.testing.assert_close(loss(model), before, rtol=0, atol=1e-12)
    assert torch.equal(loss(model), before)
    assert list(model.state_dict()) == keys


def test_an_untied_copy_is_an_ordinary_model_of_the_merged_weights() -> None:
    model, optimizer, binding = bound()
    binding.rebind("0 1 1 1 0")
    step(model, optimizer)
    with pytest.raises(InputError, match="low-rank deltas"):
        tying.hf.to_transformers(model)
    plain = tying.hf.untied(model)
    assert not any(isinstance(module, DeltaLinear) for module in plain.modules())
    assert list(plain.state_dict()) == list(tiny_gpt(5).state_dict())
    torch.testing.assert_close(loss(plain), loss(model), rtol=0, atol=1e-12)
    theirs = tying.hf.to_transformers(plain)
    torch.testing.assert_close(theirs(batch()[0]).logits.double(), model(batch()[0]), rtol=0, atol=1e-4)


def test_a_model_of_another_library() -> None:
    family = FAMILIES["llama"]()
    model = family.model
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    binding = LayerBinding(family.blocks, optimizer, model=model, deltas=Deltas(2))
    binding.rebind("0 0 2 0")
    family.loss(model).backward()
    optimizer.step()
    assert binding.trainable_params == binding.trainable_params_of(binding.pointers)
    before = family.loss(model).detach()
    torch.testing.assert_close(family.loss(tying.hf.untied(model)).detach(), before, rtol=0, atol=1e-12)
    binding.rebind("0 1 2 3")
    torch.testing.assert_close(family.loss(model).detach(), before, rtol=0, atol=1e-12)


def test_a_cache_of_keys_and_values_sees_the_deltas() -> None:
    model, optimizer, binding = bound()
    binding.rebind("0 1 1 1 0")
    step(model, optimizer)
    tokens, cache = batch()[0], model.make_cache()
    parts = [model(part, cache) for part in tokens.split((3, 1, 4), dim=1)]
    torch.testing.assert_close(torch.cat(parts, dim=1), model(tokens), rtol=0, atol=1e-12)


def test_layers_that_read_each_other_have_their_deltas_with_gradients() -> None:
    model = tiny_gpt(4, kv_sharing="0 0 2 2")
    LayerBinding(model.h, deltas=Deltas(2)).rebind("0 0 2 2")
    plain = tying.hf.untied(model)
    for made in (model, plain):
        made.loss(*batch()).backward()
    torch.testing.assert_close(loss(model), loss(plain), rtol=0, atol=1e-12)
    deltas = [name for name, _ in model.named_parameters() if name.endswith("delta_b")]
    assert {name.partition("attn.")[2] for name in deltas} > {"proj.delta_b"}
    for name in deltas:
        own = model.get_submodule(name.rpartition(".")[0])
        found = plain.get_parameter(name.replace("delta_b", "weight")).grad
        torch.testing.assert_close(own.delta_b.grad, found @ own.delta_a.T, rtol=0, atol=1e-11)


def test_a_block_that_computes_with_the_weights_themselves_sees_the_deltas() -> None:
    """nn.TransformerEncoderLayer gives its weights to one fused operation where no gradients are formed."""
    torch.manual_seed(0)
    blocks = nn.ModuleList(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True) for _ in range(2)).double().eval()
    binding = LayerBinding(blocks, deltas=Deltas(2))
    binding.rebind("0 0")
    x = torch.randn(3, 5, 8, dtype=torch.float64)
    slow = blocks[1](x)
    with torch.no_grad():
        assert blocks[1].linear1.delta_a is not None
        torch.testing.assert_close(blocks[1](x), slow, rtol=0, atol=1e-12)
    assert (blocks[0](x) - slow).abs().max() > 0.01


@pytest.mark.parametrize("names", [False, True])
def test_a_new_optimizer_resumes_by_position_and_can_be_attached(names: bool) -> None:
    def optimizer_of(model: GPT) -> torch.optim.AdamW:
        return torch.optim.AdamW(model.named_parameters() if names else model.parameters(), lr=1e-2)

    model, _, first = bound()
    first.close()
    optimizer = optimizer_of(model)
    binding = LayerBinding(model.h, optimizer, deltas=Deltas(2))
    binding.rebind("0 1 1 3 1")
    step(model, optimizer)
    twin = tiny_gpt(5)
    other = LayerBinding(twin.h, deltas=Deltas(2))
    other.rebind("0 1 1 3 1")
    twin.load_state_dict(model.state_dict())
    resumed = optimizer_of(twin)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    other.attach(resumed)
    for text in CHAIN[:5]:
        assert step(model, optimizer) == step(twin, resumed)
        for own in (binding, other):
            own.rebind(text)
        assert names_of(resumed, twin) == names_of(optimizer, model) == [[name for name, _ in model.named_parameters()]]
        if names:
            assert optimizer.param_groups[0]["param_names"] == names_of(optimizer, model)[0]


def test_an_optimizer_without_the_deltas_is_refused() -> None:
    model = tiny_gpt(3)
    optimizer = adamw(model)
    binding = LayerBinding(model.h, deltas=Deltas(2))
    binding.rebind("0 0 2")
    with pytest.raises(InputError, match=r"layer 1: 'attn\.qkv\.delta_a' trains but no optimizer holds it"):
        binding.attach(optimizer)


def test_a_frozen_layer_has_a_frozen_delta() -> None:
    model = tiny_gpt(3)
    model.h[1].requires_grad_(False)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad])
    binding = LayerBinding(model.h, optimizer, deltas=Deltas(2))
    binding.rebind("0 0 0")
    assert [p.requires_grad for own in binding.deltas.live for p in own] == [False] * 8 + [True] * 8
    assert binding.trainable_params == binding.trainable_params_of((0, 0, 0))
    assert names_of(optimizer, model) == [[n for n, p in model.named_parameters() if p.requires_grad]]
    binding.rebind("0 1 2")  # unfrozen by hand, it has trainable ones
    optimizer.add_param_group({"params": list(model.h[1].requires_grad_(True).parameters())})
    binding.rebind("0 0 0")
    assert all(p.requires_grad for p in binding.deltas.live[1])
    assert names_of(optimizer, model)[1] == [f"h.1.{n}" for n, p in model.h[1].named_parameters() if "delta" in n]


def test_a_copy_of_binding_and_model_goes_its_own_way() -> None:
    model, optimizer, binding = bound()
    binding.rebind("0 1 1 3 1")
    step(model, optimizer)
    before = loss(model)
    other, twin = copy.deepcopy((binding, model))
    assert other.trainable_params == other.trainable_params_of(other.pointers) == binding.trainable_params
    other.rebind("0 0 0 0 0")
    assert torch.equal(loss(model), before)
    other.rebind("0 1 2 3 4")
    assert list(twin.state_dict()) == list(tiny_gpt(5).state_dict())


def test_compiled_blocks_have_a_graph_for_roots_and_one_for_the_others() -> None:
    model, optimizer, binding = bound()
    reference, other, twin = bound()
    reference.load_state_dict(model.state_dict())
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    for block in model.h:
        block.forward = torch.compile(block.forward, backend="aot_eager")  # type: ignore[method-assign]
    for number, text in enumerate(CHAIN[:3]):
        binding.rebind(text)
        twin.rebind(text)
        assert step(model, optimizer, number) == pytest.approx(step(reference, other, number), abs=1e-12)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 2


class Twice(nn.Module):
    """One weight in two places."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(4, 4), nn.Linear(4, 4)
        self.down.weight = self.up.weight


@pytest.mark.parametrize(
    ("blocks", "message"),
    [
        ([nn.LayerNorm(4), nn.LayerNorm(4)], "none of weight, bias is the weight of an nn.Linear"),
        ([Twice(), Twice()], "is the weight of an nn.Linear"),
    ],
)
def test_blocks_that_cannot_have_deltas_are_refused(blocks: list[nn.Module], message: str) -> None:
    with pytest.raises(InputError, match=message):
        LayerBinding(blocks, deltas=Deltas(2))


def test_deltas_of_a_binding_before_are_refused_and_settings_checked() -> None:
    model, _, binding = bound()
    binding.rebind("0 0 0 0 0")
    binding.close()
    for deltas in (Deltas(), Deltas(2)):
        with pytest.raises(InputError, match=r"bind those of tying\.hf\.untied"):
            LayerBinding(model.h, deltas=deltas)
    LayerBinding(tying.hf.untied(model).h, deltas=Deltas(2))
    for wrong in ({"rank": -1}, {"rank": 1, "start": "one"}):
        with pytest.raises(InputError, match="deltas: rank"):
            Deltas(**wrong)  # type: ignore[arg-type]


# Ranks that the pattern says.

# Changes of rank up, down and to 0, promotions and re-targets with other ranks, jumps.
RANKED = [
    "0 0+2 0+1 3 3+0",
    "0 0+1 0+2 3 3+2",
    "0 0+0 0+2 3 3+2",
    "0 1 1+1 1+2 1+1",
    "0 1 2 2+1 2+2",
    "0 0+2 2 0+0 2+1",
    "0 0 0 0 0",
    "0 0+2 0+2 0+1 0+2",
    "0 1 2 3 4",
    "0 0+0 0+0 0+1 0+2",
]


@pytest.mark.parametrize("start", ["svd", "zero"])
def test_every_position_stays_as_near_as_the_ranks_of_the_pattern_allow(start: str) -> None:
    model, optimizer, binding = bound(2, start)
    for number, text in enumerate(RANKED * 2):
        step(model, optimizer, number)
        before, old = effective(model), binding.pointers
        held, used = [list(own) for own in binding.deltas.live], [binding.weights_of(layer)[0] for layer in range(5)]
        binding.rebind(text)
        after, new = effective(model), binding.pointers
        ranks = new.ranks or [0 if layer == root else 2 for layer, root in enumerate(new)]
        for layer, root in enumerate(new):
            assert [min(p.shape) for p in binding.deltas.live[layer]] == [ranks[layer]] * (8 if ranks[layer] else 0)
            stays = old[layer] != layer and old[layer] == root
            if stays and held[layer] and len(held[layer][0]) == ranks[layer]:
                assert all(now is then for now, then in zip(binding.deltas.live[layer], held[layer], strict=True))
            if start == "zero" and layer != root and binding.weights_of(layer)[0] is not used[layer] and ranks[layer]:
                assert not any(own.any() for own in binding.deltas.live[layer][1::2])
                continue
            for path in LINEARS:
                name = f"{path}.weight"
                error = torch.linalg.norm(after[layer][name] - before[layer][name])
                beyond = torch.linalg.svdvals(before[layer][name] - after[root][name])[ranks[layer] :]
                torch.testing.assert_close(error, beyond.square().sum().sqrt(), rtol=0, atol=1e-10)
        matrices = [n for n, p in model.named_parameters() if p.dim() >= 2]
        assert names_of(optimizer, model) == [matrices, [n for n, p in model.named_parameters() if p.dim() < 2]]
        assert set(optimizer.state) <= set(model.parameters())
        assert binding.trainable_params == binding.trainable_params_of(new) == sum(p.numel() for p in model.h.parameters())


def test_ranks_are_counted_and_get_the_gradients_of_the_merged_model() -> None:
    model, optimizer, binding = bound(2)
    block, width = sum(p.numel() for p in model.h[0].parameters()), 8
    for text in RANKED:
        pointers = Pointers.parse_ranked(text)
        total = sum(pointers.ranks or [0 if layer == root else 2 for layer, root in enumerate(pointers)])
        assert binding.trainable_params_of(pointers) == pointers.num_unique * block + 16 * width * total
        binding.rebind(text)
        step(model, optimizer)
        assert_gradients_of_the_merged_model(model, binding)


def test_rank_0_is_a_tie_without_deltas_and_the_highest_is_the_pattern_without_ranks() -> None:
    made = {rank: bound(2) for rank in (None, 0, 2)}
    plain = bound(0)
    for number, pointers in enumerate(PARTITIONS[::7]):
        for rank, (_, _, binding) in made.items():
            binding.rebind(pointers if rank is None else pointers.with_ranks([rank] * 5))
        plain[2].rebind(pointers)
        losses = {rank: step(model, optimizer, number) for rank, (model, optimizer, _) in made.items()}
        assert losses[0] == step(*plain[:2], number)
        assert losses[2] == losses[None]
    model, optimizer, binding = made[None]
    binding.rebind("0 0 2 2 2")
    step(model, optimizer)
    before, moments = [list(own) for own in binding.deltas.live], len(optimizer.state)
    binding.rebind("0 0+2 2 2+2 2+2")
    assert binding.deltas.live == before and len(optimizer.state) == moments


def test_a_rank_that_there_is_not_is_refused_and_nothing_moves() -> None:
    for highest in (0, 2):
        model, _, binding = bound(highest)
        with pytest.raises(InputError, match=f"'0 0\\+3 2 3 4': rank 3, and deltas here have at most {highest}"):
            binding.rebind("0 0+3 2 3 4")
        with pytest.raises(InputError, match="at most"):
            binding.trainable_params_of(Pointers.parse_ranked("0 0+3 2 3 4"))
        assert binding.pointers == Pointers.independent(5) and not any("delta" in n for n, _ in model.named_parameters())
