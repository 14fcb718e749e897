"""Residual paths: each is its formula, what is per position stays there, and deep tied stacks train under them."""

import math
from collections.abc import Iterable
from typing import Any

import pytest
import torch
from blocks import VOCAB, adamw, batch, slots, step, tiny_gpt
from torch import Tensor, nn

from tying import LayerBinding, Pointers
from tying.binding.deltas import Deltas
from tying.binding.sharing import spare_parameters
from tying.errors import InputError
from tying.models.bert import Bert
from tying.models.config import RESIDUALS as PLACES
from tying.models.config import BertConfig, GPTConfig
from tying.models.gpt import GPT
from tying.models.parts.residual import RESIDUALS, Admin, profile_admin

POST = ("admin", "deepnet", "b2t")


def deep_gpt(residual: str, num_layers: int, **shape: Any) -> GPT:
    """Return a GPT with norms where its residual has them."""
    sizes: dict[str, Any] = {"norm_place": PLACES[residual] or "pre", **shape}
    return tiny_gpt(num_layers, residual=residual, **sizes)


def enlarge(model: GPT, factor: float) -> None:
    """Make the blocks' matrices larger: narrow models start with branches that add next to nothing."""
    with torch.no_grad():
        for parameter in model.h.parameters():
            parameter.mul_(factor if parameter.dim() == 2 else 1)


def scales(model: GPT, index: int) -> list[float]:
    """Return what every block multiplies a part by."""
    model(batch()[0])
    return [float(block.residual.scales[index]) for block in model.h]  # type: ignore[union-attr, index]


def epsilons(pointers: Pointers) -> list[float]:
    return [1 / (pointers.count(root) * math.sqrt(pointers.num_unique)) for root in pointers]


def test_every_way_has_a_place_for_its_norms() -> None:
    assert RESIDUALS.keys() == PLACES.keys()


def test_each_way_is_its_formula() -> None:
    """With parts that multiply and norms that add, at values of which every term shows."""
    x = torch.tensor([1.0, -2.0])
    parts = [(lambda x: x + 10, lambda x: 3 * x), (lambda x: x - 7, lambda x: x * x)]
    expected = {
        ("plain", True): lambda h=4 * x + 30: h + (h - 7) ** 2,
        ("plain", False): lambda h=4 * x + 10: h + h * h - 7,
        ("looped", True): lambda h=x + 0.5 * 3 * (x + 10): h + 0.25 * (h - 7) ** 2,
        ("admin", False): lambda h=1.5 * x + 3 * x + 10: 2 * h + h * h - 7,
        ("deepnet", False): lambda h=8**0.25 * x + 3 * x + 10: 8**0.25 * h + h * h - 7,
        ("b2t", False): lambda h=4 * x + 10: x + h + h * h - 7,
    }
    for (name, norm_first), formula in expected.items():
        made: Any = RESIDUALS[name](2, 4, norm_first)
        if name == "looped":
            made.follow((0.5, 0.25))
        if name == "admin":
            made.omegas = nn.ParameterList(torch.full((2,), value) for value in (1.5, 2.0))
        torch.testing.assert_close(made(x, *parts), formula())


@pytest.mark.parametrize("name", [name for name, place in PLACES.items() if place])
@pytest.mark.parametrize("kind", [GPTConfig, BertConfig])
def test_norms_have_to_be_where_the_way_has_them(name: str, kind: Any) -> None:
    wrong = "post" if PLACES[name] == "pre" else "pre"
    with pytest.raises(InputError, match=f"model.norm_place = '{wrong}': model.residual = '{name}' needs '{PLACES[name]}'"):
        kind(residual=name, norm_place=wrong)


# Looped.


def test_scales_follow_the_pointers() -> None:
    model = deep_gpt("looped", 6)
    binding = LayerBinding(model.h)
    for text in ("0 1 2 3 4 5", "0 0 0 0 0 0", "0 1 1 3 3 3", "0 1 0 1 0 1", "0 1 2 3 4 5"):
        binding.rebind(text)
        assert scales(model, 0) == scales(model, 1) == pytest.approx(epsilons(Pointers.parse(text)))


def test_layers_with_low_rank_deltas_are_scaled_by_their_root() -> None:
    model = deep_gpt("looped", 4)
    LayerBinding(model.h, deltas=Deltas(rank=2)).rebind("0 0 0 3")
    assert scales(model, 0) == scales(model, 1) == pytest.approx(epsilons(Pointers((0, 0, 0, 3))))


def test_parts_that_do_not_follow_are_scaled_as_untied() -> None:
    model = deep_gpt("looped", 4)
    LayerBinding(model.h, share="attention").rebind("0 0 0 3")
    assert scales(model, 0) == pytest.approx(epsilons(Pointers((0, 0, 0, 3))))
    assert scales(model, 1) == pytest.approx([0.5] * 4)


def test_positions_that_are_lent_weights_are_scaled_as_tied() -> None:
    """Else gradients of positions would be those of another function; they add up to the gradient of the group."""
    model = deep_gpt("looped", 4)
    binding = LayerBinding(model.h)
    binding.rebind("0 0 2 2")
    loss = model.loss(*batch())
    loss.backward()
    with binding.separated() as leaves:
        lent = model.loss(*batch())
        found = torch.autograd.grad(lent, [leaf for own in leaves for leaf in own])
    assert torch.equal(lent, loss)
    half = len(found) // 2
    for parameter, first, second in zip(binding.weights_of(0), found, found[half // 2 : half], strict=False):
        torch.testing.assert_close(parameter.grad, first + second, rtol=0, atol=1e-12)


def test_the_output_of_a_tied_stack_keeps_its_size_as_it_gets_deeper() -> None:
    """Plain, it grows with depth: a tied layer adds to the stream in about one direction."""

    def variance(residual: str, num_layers: int) -> float:
        model = deep_gpt(residual, num_layers, width=16)
        enlarge(model, 12.5 * (math.sqrt(2 * num_layers) if residual == "plain" else 1))  # std 0.25, Xavier's
        LayerBinding(model.h).rebind([0] * num_layers)
        found: list[Tensor] = []
        model.h[-1].register_forward_hook(lambda module, inputs, output: found.append(output))
        model(batch()[0])
        return float(found[0].detach().var())

    looped, plain = ([variance(name, n) for n in (4, 16, 64)] for name in ("looped", "plain"))
    assert max(looped) < 2 * looped[0]
    assert plain[0] < plain[1] < plain[2] and plain[2] > 50 * plain[0]


# Admin.


def test_omegas_start_where_microsoft_admin_torch_has_them() -> None:
    """n = 12, 24, 48, 96 parts."""
    for num_layers, expected in ((6, 2.017), (12, 2.601), (24, 3.404), (48, 4.495)):
        model = deep_gpt("admin", num_layers)
        omegas = [parameter for name, parameter in model.named_parameters() if "omegas" in name]
        assert len(omegas) == 2 * num_layers
        assert all(torch.equal(omega, torch.full_like(omega, omega[0].item())) for omega in omegas)
        assert {round(omega[0].item(), 3) for omega in omegas} == {expected}


def test_a_profile_is_the_root_of_what_the_parts_before_add() -> None:
    model = deep_gpt("admin", 3, dropout=0.5)
    enlarge(model, 10)
    LayerBinding(model.h).rebind("0 0 2")
    profile_admin(model, batch()[0])
    assert model.training
    variances: list[float] = []
    for block in model.h:
        for part in (block.attn, block.mlp):
            part.register_forward_hook(  # type: ignore[union-attr]
                lambda module, inputs, output: variances.append(output.var(correction=0).item())
            )
    omegas = [omega[0].item() for block in model.h for omega in block.residual.omegas]  # type: ignore[union-attr]
    model.eval()(batch()[0])
    assert omegas == pytest.approx([math.sqrt(1 + sum(variances[:i])) for i in range(6)])
    assert omegas[0] == 1 and sorted(set(omegas)) == omegas
    with pytest.raises(InputError, match=r"model\.residual = 'admin'"):
        profile_admin(tiny_gpt(2), batch()[0])


# Initial weights.


def test_deepnet_draws_by_xaviers_scheme_with_its_gains() -> None:
    model = GPT(GPTConfig(num_layers=2, num_heads=4, width=64, norm_place="post", residual="deepnet"), VOCAB, 0)
    beta, block = 16**-0.25, slots(model.h[1])
    deviations = [part.std().item() for part in block["attn.qkv.weight"].chunk(3)]
    assert deviations == pytest.approx([64**-0.5, 64**-0.5, beta * 64**-0.5], rel=0.05)
    assert block["attn.proj.weight"].std().item() == pytest.approx(beta * 64**-0.5, rel=0.05)
    for name in ("mlp.up.weight", "mlp.down.weight"):
        assert block[name].std().item() == pytest.approx(beta * (2 / 320) ** 0.5, rel=0.05)


@pytest.mark.parametrize("sharing", ["kv_sharing", "attention_sharing"])
def test_deepnets_gains_are_those_of_what_a_matrix_makes(sharing: str) -> None:
    sizes: dict[str, Any] = {"num_layers": 2, "num_heads": 4, "width": 64, sharing: "cla:2"}
    model = GPT(GPTConfig(norm_place="post", residual="deepnet", **sizes), VOCAB, 0)
    found = {name.split(".")[-2]: p for block in model.h for name, p in slots(block).items() if p.dim() == 2}
    gains = {"q": [1.0], "kv": [1.0, 0.5]} if sharing == "kv_sharing" else {"qk": [1.0, 1.0], "v": [0.5]}
    for kind, expected in gains.items():
        deviations = [rows.std().item() for rows in found[kind].chunk(len(kind))]
        assert deviations == pytest.approx([gain * 64**-0.5 for gain in expected], rel=0.08)


@pytest.mark.parametrize("residual", ["deepnet", "b2t"])
def test_a_set_of_weights_is_scaled_once_however_many_layers_use_it(residual: str) -> None:
    """A walk over layers would shrink a root of m layers m times."""
    untied = deep_gpt(residual, 4, width=32).h[0]
    model = deep_gpt(residual, 4, width=32)
    LayerBinding(model.h).rebind("0 0 0 0")
    model.init_weights(torch.Generator().manual_seed(3))
    for name, parameter in slots(model.h[3]).items():
        if parameter.dim() == 2:
            assert parameter.std().item() == pytest.approx(slots(untied)[name].std().item(), rel=0.1), name
    if residual == "b2t":
        assert slots(untied)["mlp.up.weight"].std().item() == pytest.approx(0.01, rel=0.1)


@pytest.mark.parametrize("residual", RESIDUALS)
def test_a_model_that_is_built_tied_is_the_untied_one_tied(residual: str) -> None:
    pointers = Pointers((0, 1, 1, 0))
    shape: dict[str, Any] = {"num_heads": 2, "width": 8, "context": 8, "depth_embedding": "learned"}
    config = GPTConfig(num_layers=4, residual=residual, norm_place=PLACES[residual] or "pre", **shape)
    whole, spared = GPT(config, VOCAB, 3), GPT(config, VOCAB, None)
    spared.draw_weights(3, spare_parameters(list(spared.h), "block", "shared", pointers))
    for model in (whole, spared):
        LayerBinding(model.h).rebind(pointers)
    assert [name for name, _ in whole.named_parameters()] == [name for name, _ in spared.named_parameters()]
    assert all(map(torch.equal, whole.parameters(), spared.parameters()))


# Per position.


def values(parameters: Iterable[nn.Parameter]) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in parameters]


@pytest.mark.parametrize(
    "options", [{"residual": "admin", "norm_place": "post"}, {"depth_embedding": "learned"}], ids=["omegas", "vectors"]
)
def test_what_belongs_to_a_position_stays_with_it_whatever_follows(options: dict[str, Any]) -> None:
    model = tiny_gpt(4, **options)
    optimizer = adamw(model)
    binding = LayerBinding(model.h, optimizer)
    own = [p for name, p in model.named_parameters() if "omegas" in name or "vector" in name]
    assert len(own) == 4 * (2 if "residual" in options else 1)
    for pointers in ("0 0 2 2", "0 0 0 0", "0 1 1 0", "0 1 2 3"):
        step(model, optimizer)
        before = values(own), [optimizer.state[p]["exp_avg"].clone() for p in own]
        binding.rebind(pointers)
        assert [p for name, p in model.named_parameters() if "omegas" in name or "vector" in name] == own
        assert all(map(torch.equal, values(own), before[0]))
        assert all(torch.equal(optimizer.state[p]["exp_avg"], moment) for p, moment in zip(own, before[1], strict=True))
        held = [id(p) for group in optimizer.param_groups for p in group["params"]]
        assert sorted(held) == sorted(map(id, model.parameters()))
        assert binding.trainable_params == sum(p.numel() for p in model.h.parameters())
    assert len({tuple(p.flatten().tolist()) for p in own}) == len(own)


# Deep stacks.


@pytest.fixture(scope="module")
def last_losses() -> dict[str, float]:
    """The mean loss of the last steps of 50 on counting by threes, of 48 tied layers with norms behind their parts."""
    found = {}
    for residual in ("plain", *POST):
        sizes: dict[str, Any] = {"num_layers": 48, "num_heads": 2, "width": 16, "context": 8, "bias": False}
        config = GPTConfig(**sizes, norm_place="post", residual=residual)
        model = GPT(config, VOCAB, 0)
        if residual != "deepnet":
            enlarge(model, 5)  # std 0.1
        LayerBinding(model.h).rebind([0] * 48)
        optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, fused=True)
        generator = torch.Generator().manual_seed(1)
        losses = []
        for _ in range(50):
            tokens = (torch.randint(0, VOCAB, (4, 1), generator=generator) + 3 * torch.arange(9)) % VOCAB
            optimizer.zero_grad()
            loss = model.loss(tokens[:, :-1], tokens[:, 1:])
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
        found[residual] = sum(losses[-5:]) / 5
    return found


def test_a_deep_tied_stack_with_norms_behind_its_parts_hardly_learns(last_losses: dict[str, float]) -> None:
    """All tokens look about the same to the head: the loss stays near that of a uniform guess."""
    assert last_losses["plain"] > 0.9 * math.log(VOCAB)


@pytest.mark.parametrize("residual", POST)
def test_a_deep_tied_stack_learns_with_a_residual_for_deep_stacks(residual: str, last_losses: dict[str, float]) -> None:
    assert last_losses[residual] < 0.7 * math.log(VOCAB)


# The encoder.


@pytest.mark.parametrize("residual", RESIDUALS)
def test_an_encoder_has_them_too(residual: str) -> None:
    config = BertConfig(
        num_layers=3, num_heads=2, width=8, context=8, residual=residual, norm_place=PLACES[residual] or "post"
    )
    model = Bert(config, (VOCAB, 0), 0)
    LayerBinding(model.h).rebind("0 0 2")
    model(batch()[0]).square().sum().backward()
    assert all(p.grad is not None and float(p.grad.abs().max()) > 0 for p in model.h.parameters())
    assert isinstance(model.h[0].residual, RESIDUALS[residual])
    if residual == "admin":
        profile_admin(model, batch()[0])
        assert isinstance(model.h[0].residual, Admin)
