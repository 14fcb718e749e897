"""What would train wrongly is refused in one line, with model and optimizer as they were."""

import copy
import gc
import pickle
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from blocks import adamw, batch, slots, step, tiny_gpt
from families import FAMILIES
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import parametrizations, prune

from tying import LayerBinding
from tying.binding import bindings_of, unroll
from tying.errors import InputError
from tying.models.gpt import GPT


def snapshot(model: nn.Module, *optimizers: torch.optim.Optimizer) -> Any:
    """Return what a refusal must leave alone: objects and values of parameters, groups and state."""
    parameters = [
        (name, p, p.detach().clone(), p.requires_grad) for name, p in model.named_parameters(remove_duplicate=False)
    ]
    groups = [[list(map(id, group["params"])) for group in o.param_groups] for o in optimizers]
    state = [{id(p): {k: v.clone() for k, v in s.items()} for p, s in o.state.items()} for o in optimizers]
    return parameters, groups, state


def assert_as_before(before: Any, model: nn.Module, *optimizers: torch.optim.Optimizer) -> None:
    parameters, groups, state = before
    after, groups_after, state_after = snapshot(model, *optimizers)
    assert [(n, id(p), r) for n, p, _, r in parameters] == [(n, id(p), r) for n, p, _, r in after]
    for (_, _, left, _), (_, _, right, _) in zip(parameters, after, strict=True):
        assert left.is_meta or torch.equal(left, right)
    assert groups == groups_after
    torch.testing.assert_close(state, state_after, rtol=0, atol=0)


def trained(pointers: str = "0 0 2 3", **options: Any) -> tuple[GPT, torch.optim.Optimizer, LayerBinding]:
    model = tiny_gpt(4)
    optimizer = adamw(model)
    binding = LayerBinding(model.h, optimizer, **options)
    binding.rebind(pointers)
    step(model, optimizer)
    return model, optimizer, binding


def adamw_of_trained(model: nn.Module) -> torch.optim.AdamW:
    return torch.optim.AdamW([p for p in model.parameters() if p.requires_grad])


def replace_by_assign(model: GPT) -> None:
    state = {name: value.clone() for name, value in model.state_dict().items()}
    for block in model.h:
        block._load_state_dict_pre_hooks.clear()
    model.load_state_dict(state, assign=True)


def replace_by_pruning(model: GPT) -> None:
    prune.random_unstructured(model.h[2].mlp.up, "weight", amount=0.5)


def replace_by_parametrization(model: GPT) -> None:
    parametrizations.weight_norm(model.h[3].attn.proj)


def replace_by_meta(model: GPT) -> None:
    model.h[3].to("meta")


@pytest.mark.parametrize(
    "replace",
    [replace_by_assign, replace_by_pruning, replace_by_parametrization, replace_by_meta],
    ids=lambda f: f.__name__,
)
def test_parameters_that_were_replaced_are_noticed_at_the_next_rebind(replace: Callable[[GPT], None]) -> None:
    model, optimizer, binding = trained()
    replace(model)
    before = snapshot(model, optimizer)
    for pointers in ("0 1 2 3", "0 0 0 0", "0 0 2 3"):
        with pytest.raises(InputError, match=r"^layer [0-3]: '[\w.]+' was replaced after binding"):
            binding.rebind(pointers)
    assert_as_before(before, model, optimizer)
    assert binding.pointers == (0, 0, 2, 3)


def test_lbfgs_is_refused() -> None:
    model = tiny_gpt(2)
    with pytest.raises(InputError, match="LBFGS"):
        LayerBinding(model.h, torch.optim.LBFGS(model.parameters()))
    binding = LayerBinding(model.h)
    with pytest.raises(InputError, match="LBFGS"):
        binding.attach(torch.optim.LBFGS(model.parameters()))
    assert binding.optimizers == []


def test_parameters_that_no_optimizer_holds_are_refused() -> None:
    model = tiny_gpt(3)
    message = r"layer 0: 'ln_1\.weight' trains but no optimizer holds it"
    upper = torch.optim.AdamW([p for block in model.h[1:] for p in block.parameters()])
    with pytest.raises(InputError, match=message):
        LayerBinding(model.h, upper)
    binding = LayerBinding(model.h)
    with pytest.raises(InputError, match=message):
        binding.attach(upper)
    assert binding.optimizers == []
    model.h[0].requires_grad_(False)
    binding.attach(upper)


def test_a_rebind_that_would_let_weights_train_without_an_optimizer_is_refused() -> None:
    model = tiny_gpt(3)
    model.h[1].requires_grad_(False)
    optimizer = adamw_of_trained(model)
    binding = LayerBinding(model.h, optimizer)
    model.h[1].requires_grad_(True)
    binding.rebind("0 0 2")
    before = snapshot(model, optimizer)
    with pytest.raises(InputError, match=r"layer 1: 'ln_1\.weight' trains but no optimizer holds it"):
        binding.rebind("0 1 2")
    assert_as_before(before, model, optimizer)


def test_weights_that_are_used_outside_the_blocks_too_are_refused() -> None:
    model = tiny_gpt(3)
    extra = nn.Linear(8, 8, dtype=torch.float64)
    whole = nn.ModuleDict({"gpt": model, "extra": extra})
    model.h[2].attn.proj.weight = extra.weight
    optimizer = adamw(whole)
    with pytest.raises(InputError, match=r"'attn\.proj\.weight' of a layer is also 'extra\.weight', outside the blocks"):
        LayerBinding(model.h, optimizer, model=whole)
    LayerBinding(model.h, optimizer, share="feed_forward", model=whole)


def test_weights_that_come_to_be_used_outside_are_not_freed() -> None:
    model = tiny_gpt(3)
    whole = nn.ModuleDict({"gpt": model, "extra": nn.Linear(8, 8, dtype=torch.float64)})
    optimizer = adamw(whole)
    binding = LayerBinding(model.h, optimizer, model=whole)
    whole["extra"].weight = model.h[2].attn.proj.weight
    before = snapshot(whole, optimizer)
    with pytest.raises(InputError, match=r"is also 'extra\.weight'"):
        binding.rebind("0 1 1")
    assert_as_before(before, whole, optimizer)
    binding.rebind("0 0 2")


def test_a_model_that_holds_its_blocks_twice_is_no_use_outside() -> None:
    model = tiny_gpt(3)
    model.again = model.h
    binding = LayerBinding(model.h, model=model)
    binding.rebind("0 0 0")
    model.load_state_dict(model.state_dict())
    assert model.again[2].attn.proj.weight is model.h[0].attn.proj.weight


def test_bindings_over_the_same_parameters_are_refused_and_disjoint_ones_are_not() -> None:
    model = tiny_gpt(3)
    attention = LayerBinding(model.h, share="attention")
    for share in ("block", "attn.qkv.*"):
        with pytest.raises(InputError, match=r"bound already, with gradient 'sum' and pointers '0 1 2'"):
            LayerBinding(model.h, share=share)
    with pytest.raises(InputError, match="bound already"):
        LayerBinding([block.attn for block in model.h])
    feed_forward = LayerBinding(model.h, share="feed_forward")
    assert set(bindings_of(model.h)) == {attention, feed_forward}
    attention.close()
    assert bindings_of(model.h[:1]) == [feed_forward]
    LayerBinding(model.h, share="attention")


def test_a_closed_binding_leaves_the_tie_and_can_do_nothing_more() -> None:
    model = tiny_gpt(3)
    with LayerBinding(model.h, gradient="root_only") as binding:
        binding.rebind("0 0 2")
        assert not binding.closed
    assert binding.closed
    assert model.h[1].attn.qkv.weight is model.h[0].attn.qkv.weight
    assert not any(
        block._forward_pre_hooks or block._forward_hooks or block._load_state_dict_pre_hooks for block in model.h
    )
    for use in (
        lambda: binding.rebind("0 1 2"),
        lambda: binding.attach(adamw(model)),
        lambda: binding.untied().__enter__(),
    ):
        with pytest.raises(InputError, match="closed"):
            use()
    assert LayerBinding(model.h).pointers == (0, 0, 2)


@pytest.mark.parametrize("gradient", ["root_only", "mean"])
def test_a_dropped_binding_that_changes_gradients_stays_in_force_until_it_is_closed(gradient: str) -> None:
    model = tiny_gpt(3)

    def gradients() -> list[torch.Tensor]:
        model.zero_grad()
        model.loss(*batch()).backward()
        return [p.grad.clone() for p in model.parameters() if p.grad is not None]

    LayerBinding(model.h, gradient=gradient).rebind("0 0 0")
    gc.collect()
    with pytest.raises(InputError, match=f"bound already, with gradient '{gradient}'"):
        LayerBinding(model.h)
    changed = gradients()
    (dropped,) = bindings_of(model.h)
    dropped.close()
    LayerBinding(model.h)
    assert not all(torch.equal(left, right) for left, right in zip(gradients(), changed, strict=True))


@pytest.mark.parametrize("gradient", ["root_only", "mean"])
def test_a_model_with_hooks_of_a_binding_is_not_copied_alone(gradient: str) -> None:
    model, optimizer, binding = trained("0 0 0 3", gradient=gradient)
    before = snapshot(model, optimizer)
    with pytest.raises(InputError, match=rf"gradient '{gradient}' .*copy\.deepcopy\(\(binding, model\)\)"):
        copy.deepcopy(model)
    with pytest.raises(InputError, match=rf"gradient '{gradient}' .*pickled"):
        pickle.dumps(model)
    assert_as_before(before, model, optimizer)
    binding.close()
    assert copy.deepcopy(model).h[1].attn.qkv.weight is not model.h[1].attn.qkv.weight


@pytest.mark.parametrize("gradient", ["sum", "mean", "root_only"])
def test_a_binding_is_copied_with_its_model_and_optimizer(gradient: str) -> None:
    model, optimizer, binding = trained("0 0 0 3", gradient=gradient)
    binding2, model2, optimizer2 = copy.deepcopy((binding, model, optimizer))
    for text in ("0 0 0 3", "0 1 1 3", "0 1 2 3", "0 0 2 2"):
        binding.rebind(text)
        binding2.rebind(text)
        assert step(model, optimizer) == step(model2, optimizer2)
        for left, right in zip(model.parameters(), model2.parameters(), strict=True):
            assert left is not right
            assert torch.equal(left, right)
            torch.testing.assert_close(left.grad, right.grad, rtol=0, atol=0)


def through_deepcopy(things: Any) -> Any:
    return copy.deepcopy(things)


def through_pickle(things: Any) -> Any:
    return pickle.loads(pickle.dumps(things))


@pytest.mark.parametrize("copied", [through_deepcopy, through_pickle])
def test_a_model_under_a_plain_binding_is_copied_in_any_order(copied: Callable[[Any], Any]) -> None:
    model, optimizer, binding = trained("0 0 2 2")
    alone = copied(model)
    assert alone.h[1].attn.qkv.weight is alone.h[0].attn.qkv.weight
    assert bindings_of(alone.h) == []
    model2, optimizer2, binding2 = copied((model, optimizer, binding))
    for text in ("0 1 2 3", "0 1 1 1"):
        binding.rebind(text)
        binding2.rebind(text)
        assert step(model, optimizer) == step(model2, optimizer2)


@pytest.mark.parametrize("whole", [False, True])
def test_an_untied_state_is_not_loaded_into_tied_layers(whole: bool) -> None:
    model = tiny_gpt(4)
    optimizer = adamw(model)
    binding = LayerBinding(model.h, optimizer, model=model if whole else None)
    binding.rebind("0 0 2 2")
    before = snapshot(model, optimizer)
    other = tiny_gpt(4, seed=1).state_dict()
    with pytest.raises(InputError, match=r"different values for 'ln_1\.weight'|different values for 'attn\.qkv\.weight'"):
        model.load_state_dict(other)
    if whole:
        assert_as_before(before, model, optimizer)
    with pytest.raises(InputError, match="assign=True"):
        model.load_state_dict(model.state_dict(), assign=True)
    binding.rebind("0 1 2 3")
    model.load_state_dict(other)
    assert torch.equal(model.h[3].attn.qkv.weight, other["h.3.attn.qkv.weight"])


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("each_once", [False, True])
def test_a_state_that_is_tied_alike_is_loaded(whole: bool, each_once: bool) -> None:
    source, target = tiny_gpt(4, seed=1), tiny_gpt(4)
    LayerBinding(source.h).rebind("0 0 2 2")
    LayerBinding(target.h, model=target if whole else None).rebind("0 0 2 2")
    values = dict(source.named_parameters()) if each_once else source.state_dict()
    target.load_state_dict({name: value.detach() for name, value in values.items()}, strict=not each_once)
    for left, right in zip(source.parameters(), target.parameters(), strict=True):
        assert torch.equal(left, right)


def test_parameters_with_hooks_are_neither_copied_nor_freed() -> None:
    model, optimizer, binding = trained("0 0 2 3")
    for layer, hook in ((0, "register_hook"), (3, "register_post_accumulate_grad_hook")):
        handle = getattr(model.h[layer].mlp.up.weight, hook)(lambda gradient: None)
        before = snapshot(model, optimizer)
        with pytest.raises(InputError, match=r"layer [013]: 'mlp\.up\.weight' has hooks of its own"):
            binding.rebind("0 1 2 2")
        assert_as_before(before, model, optimizer)
        handle.remove()
    binding.rebind("0 1 2 2")


class Quantised(nn.Parameter):
    """Stands for a library's own kind of parameter."""


def test_parameters_of_another_class_are_tied_but_not_copied() -> None:
    model = tiny_gpt(2)
    for block in model.h:
        block.mlp.up.weight = Quantised(block.mlp.up.weight.detach())
    binding = LayerBinding(model.h)
    binding.rebind("0 0")
    with pytest.raises(InputError, match=r"layer 1: 'mlp\.up\.weight' is a Quantised, which cannot be copied"):
        binding.rebind("0 1")
    assert binding.pointers == (0, 0)


def test_modules_that_cannot_be_tied_are_refused() -> None:
    with pytest.raises(InputError, match=r"'lstm\.weight_ih_l0' is in a recurrent module"):
        LayerBinding([nn.ModuleDict({"lstm": nn.LSTM(2, 2)}) for _ in range(2)])
    with pytest.raises(InputError, match=r"block 0: 'weight' has no values yet"):
        LayerBinding([nn.LazyLinear(2) for _ in range(2)])
    with pytest.raises(InputError, match="a block is wrapped in DataParallel"):
        LayerBinding([nn.DataParallel(nn.Linear(2, 2)) for _ in range(2)])


def test_layers_that_hold_one_module_are_refused_and_can_be_unrolled() -> None:
    model = tiny_gpt(3)
    model.h[2].mlp = model.h[1].mlp
    with pytest.raises(InputError, match=r"layers 1 and 2 are one module where 'mlp\.up\.weight' stands"):
        LayerBinding(model.h)
    before = model.loss(*batch())
    model.h = unroll(model.h)
    assert torch.equal(model.loss(*batch()), before)
    assert model.h[2].mlp.up.weight is model.h[1].mlp.up.weight
    binding = LayerBinding(model.h, share="feed_forward")
    assert binding.pointers == (0, 1, 1)
    binding.rebind("0 1 2")
    assert model.h[2].mlp.up.weight is not model.h[1].mlp.up.weight


class TiedInside(nn.Module):
    """A block that uses one matrix in two places."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(4, 4), nn.Linear(4, 4)
        self.down.weight = self.up.weight

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return hidden + self.down(self.up(hidden).relu())


def test_a_parameter_that_a_block_holds_twice_follows_in_both_places() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(*(TiedInside() for _ in range(3)))
    optimizer = adamw(model)
    binding = LayerBinding(model, optimizer, model=model)
    assert "down.weight" not in binding.shared_names
    inputs = torch.randn(5, 4)
    for text in ("0 0 2", "0 1 2", "0 0 0", "0 1 1"):
        binding.rebind(text)
        assert binding.trainable_params == binding.trainable_params_of(binding.pointers)
        for layer, root in enumerate(binding.pointers):
            assert model[layer].down.weight is model[layer].up.weight is model[root].up.weight
        optimizer.zero_grad()
        model(inputs).square().mean().backward()
        optimizer.step()
        assert sorted(id(p) for g in optimizer.param_groups for p in g["params"]) == sorted(map(id, model.parameters()))


def test_blocks_of_which_one_is_tied_inside_are_refused() -> None:
    blocks = [TiedInside(), TiedInside()]
    blocks[1].down.weight = nn.Parameter(torch.zeros(4, 4))
    with pytest.raises(InputError, match=r"'up\.weight' is also \[\] in block 1, \['down\.weight'\] in block 0"):
        LayerBinding(blocks)


@pytest.mark.parametrize(
    ("pointers", "message"),
    [
        ("0 1 2 3 4", "are for 5 layers"),
        ("0 0 1 3", "owns no weights"),
        ("a b c d", "expected one per layer"),
        ("", "pointers"),
    ],
)
def test_text_that_is_no_pointers_is_refused(pointers: str, message: str) -> None:
    model, optimizer, binding = trained()
    before = snapshot(model, optimizer)
    with pytest.raises(InputError, match=message):
        binding.rebind(pointers)
    assert_as_before(before, model, optimizer)


def test_untied_lends_clones_and_brings_the_tie_back() -> None:
    model, optimizer, binding = trained("0 0 2 2")
    before = snapshot(model, optimizer)
    expected = model.loss(*batch())
    with binding.untied():
        everything = [p for block in model.h for p in slots(block).values()]
        assert len({p.untyped_storage().data_ptr() for p in everything}) == len(everything)
        assert torch.equal(model.loss(*batch()), expected)
        for use in (lambda: binding.rebind("0 1 2 3"), lambda: binding.separated().__enter__()):
            with pytest.raises(InputError, match="lent"):
                use()
        with torch.no_grad():
            model.h[1].attn.qkv.weight.zero_()
    assert_as_before(before, model, optimizer)
    assert binding.pointers == (0, 0, 2, 2)
    binding.rebind("0 1 2 3")


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("gradient", ["sum", "mean", "root_only"])
def test_gradients_hold_under_the_checkpointing_of_another_library_or_it_is_refused(gradient: str, reentrant: bool) -> None:
    family = FAMILIES["llama"]()
    LayerBinding(family.blocks, gradient=gradient).rebind("0 0 2 2")
    family.loss(family.model).backward()
    expected = [p.grad.clone() for p in family.blocks[0].parameters() if p.grad is not None]
    family.model.zero_grad()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about a deprecated name; the versions that we allow know only this one
        family.model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    family.model.enable_input_require_grads()
    if gradient == "root_only":
        with pytest.raises(InputError, match="'root_only' would be lost in the layers' gradient checkpointing"):
            family.loss(family.model)
        assert family.blocks[1].mlp.up_proj.weight is family.blocks[0].mlp.up_proj.weight
        family.model.eval()
        family.loss(family.model)
    else:
        family.loss(family.model).backward()
        for parameter, value in zip(family.blocks[0].parameters(), expected, strict=True):
            torch.testing.assert_close(parameter.grad, value, rtol=0, atol=1e-14)


@pytest.fixture
def process_group(tmp_path: Path) -> Iterator[None]:
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


def test_a_live_distributed_wrapper_is_refused(process_group: None) -> None:
    model, optimizer, binding = trained()
    wrapper = DistributedDataParallel(model)
    before = snapshot(model, optimizer)
    with pytest.raises(InputError, match=r"wrapped in DistributedDataParallel.*delete the wrapper"):
        binding.rebind("0 1 2 3")
    assert_as_before(before, model, optimizer)
    wrapper.follows_rebinds = True
    binding.rebind("0 1 2 3")
    wrapper.follows_rebinds = False
    wrapper(batch()[0]).sum().backward()
    del wrapper
    binding.rebind("0 0 0 0")
    with pytest.raises(InputError, match="a block is wrapped in DistributedDataParallel"):
        LayerBinding([DistributedDataParallel(nn.Linear(2, 2)) for _ in range(2)])


def test_sharded_parameters_are_refused(process_group: None) -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    model = tiny_gpt(3)
    binding = LayerBinding(model.h)
    binding.rebind("0 0 2")
    fully_shard(model, mesh=init_device_mesh("cpu", (1,)))
    with pytest.raises(InputError, match=r"layer 0: 'ln_1\.weight' is sharded: bind and rebind first"):
        binding.rebind("0 1 2")
    binding.close()
    with pytest.raises(InputError, match=r"block 0: 'ln_1\.weight' is sharded: bind and rebind first"):
        LayerBinding(model.h)
