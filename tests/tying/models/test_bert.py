"""BERT and ALBERT: the published counts, and that both sides are seen. Its logits: tests/tying/hf/test_export.py."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from tying import LayerBinding
from tying.errors import InputError
from tying.models.base import num_params
from tying.models.bert import Bert
from tying.models.config import BertConfig

VOCAB = 17


def tiny_bert(num_classes: int = 0, **shape: Any) -> Bert:
    sizes = {"num_layers": 2, "num_heads": 2, "width": 8, "context": 8, **shape}
    return Bert(BertConfig(**sizes), (VOCAB, num_classes), 0).double()


def tokens() -> torch.Tensor:
    return torch.randint(0, VOCAB, (2, 8), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("width", "layers", "heads", "published"),
    [
        (768, 12, 12, 11_683_584),
        (1024, 24, 16, 17_683_968),
        (2048, 24, 16, 58_724_864),
        (4096, 12, 64, 222_595_584),
    ],
    ids=["base", "large", "xlarge", "xxlarge"],
)
def test_albert_has_its_published_parameters(width: int, layers: int, heads: int, published: int) -> None:
    """Version 2: embeddings of 128, all layers tied, with the pooler and without a head."""
    config = BertConfig(num_layers=layers, num_heads=heads, width=width, embedding_size=128, context=512, token_types=2)
    model = Bert(config, (30_000, 2), seed=None)  # no values, no memory
    LayerBinding(model.h).rebind([0] * layers)
    assert num_params(model) - (2 * width + 2) == published


def test_bert_base_has_its_published_parameters() -> None:
    config = BertConfig(num_layers=12, num_heads=12, width=768, context=512, token_types=2)
    assert num_params(Bert(config, (30_522, 2), seed=None)) - (2 * 768 + 2) == 109_482_240


def test_options_that_are_off_leave_no_parameter() -> None:
    plain = dict(tiny_bert().named_parameters())
    assert not [name for name in plain if "types" in name or "map" in name or name.startswith(("ln_f", "head."))]
    assert set(dict(tiny_bert(norm_place="pre").named_parameters())) - set(plain) == {"ln_f.weight", "ln_f.bias"}
    assert torch.equal(tiny_bert(embedding_size=8)(tokens()), tiny_bert()(tokens()))
    small = num_params(tiny_bert(embedding_size=4))
    table, mapped, head = (VOCAB + 8) * 4 + 8, 4 * 8 + 8, 8 * 4 + 4 + 8 + VOCAB
    assert small == table + mapped + head + num_params(tiny_bert().h)


@pytest.mark.parametrize("norm_place", ["post", "pre"])
def test_every_token_sees_both_sides_and_every_parameter_learns(norm_place: str) -> None:
    model = tiny_bert(norm_place=norm_place, embedding_size=4, token_types=1)
    changed = tokens()
    changed[:, 5] = (changed[:, 5] + 1) % VOCAB
    moved = (model(tokens()) - model(changed)).detach().abs().amax(-1)
    assert float(moved.min()) > 1e-9
    F.cross_entropy(model(tokens()).flatten(0, 1), changed.flatten()).backward()
    assert all(p.grad is not None and float(p.grad.abs().max()) > 0 for p in model.parameters())


def test_a_classifier_reads_the_first_token_and_sees_no_padding() -> None:
    model = tiny_bert(num_classes=3)
    mask = (torch.arange(8) < 5).long().expand(2, 8)
    other = tokens()
    other[:, 5:] = (other[:, 5:] + 1) % VOCAB
    assert model(tokens(), mask).shape == (2, 3)
    torch.testing.assert_close(model(other, mask), model(tokens(), mask), rtol=0, atol=1e-14)
    torch.testing.assert_close(model(tokens()[:, :5]), model(tokens(), mask), rtol=0, atol=1e-14)
    assert not torch.allclose(model(other), model(tokens()))


def test_a_new_model_guesses() -> None:
    model = Bert(BertConfig(num_layers=2, width=32, context=16), (200, 0), 0)
    some = torch.randint(0, 200, (8, 16), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        loss = F.cross_entropy(model(some).flatten(0, 1), some.flip(0).flatten())
    assert float(loss) == pytest.approx(math.log(200), rel=0.05)


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(InputError, match=r"model\.num_heads = 3: must divide model\.width = 8"):
        tiny_bert(num_heads=3)
