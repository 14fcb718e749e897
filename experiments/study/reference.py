"""The baseline of speed: a GPT and a training loop as nanoGPT has them (github.com/karpathy/nanoGPT), and no more.

Its mathematics: pre-norm blocks, learned positions, exact GELU, the output tied to the embedding, causal attention by
scaled_dot_product_attention, F.cross_entropy, clipping, AdamW with decay on matrices alone. It has what a fair comparison
needs: our fused AdamW and setting of the allocator, and losses that are not read. Shapes: B batch, T tokens, C width.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tying.models.config import GPTConfig
from tying.tasks.base import on_device
from tying.training.config import OptimConfig
from tying.training.memory import keep_freed_memory
from tying.training.optim import learning_rate


class _Block(nn.Module):
    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm_1, self.norm_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.gelu, self.down = nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        size = x.size()
        heads = (*size[:2], self.num_heads, size[2] // self.num_heads)
        q, k, v = (part.view(heads).transpose(1, 2) for part in self.qkv(self.norm_1(x)).split(size[2], dim=2))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).contiguous().view(size)
        x = x + self.out(y)
        return x + self.down(self.gelu(self.up(self.norm_2(x))))  # type: ignore[no-any-return]


class ReferenceGPT(nn.Module):
    """The model; its weights are drawn by PyTorch's own scheme but for the embeddings."""

    def __init__(self, config: GPTConfig, vocab_size: int) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(vocab_size, config.width), nn.Embedding(config.context, config.width)
        self.blocks = nn.ModuleList(_Block(config.width, config.num_heads) for _ in range(config.num_layers))
        self.norm = nn.LayerNorm(config.width)
        self.head = nn.Linear(config.width, vocab_size, bias=False)
        nn.init.normal_(self.tokens.weight, std=0.02)
        self.head.weight = self.tokens.weight

    def forward(self, tokens: Tensor, targets: Tensor) -> Tensor:
        """Return the loss, nats per token: (B, T), (B, T) int64 -> scalar."""
        x = self.tokens(tokens) + self.positions(torch.arange(tokens.shape[1], device=tokens.device))
        for block in self.blocks:
            x = block(x)
        logits = self.head(self.norm(x))
        return F.cross_entropy(logits.view(-1, logits.size(-1)), targets.view(-1))


def loop(
    task: Any,
    config: GPTConfig,
    optim: OptimConfig,
    batch_size: int,
    precision: str,
    device: str = "cpu",
    compiled: bool = False,
) -> Callable[[int], object]:
    """Return a function that trains the reference for so many iterations, on the batches of a task."""
    keep_freed_memory()
    model = ReferenceGPT(config, task.data.vocab_size).to(device)
    run_model: Callable[[Tensor, Tensor], Tensor] = torch.compile(model) if compiled else model
    groups = [
        {"params": [p for p in model.parameters() if p.dim() >= 2], "weight_decay": optim.weight_decay},
        {"params": [p for p in model.parameters() if p.dim() < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=optim.learning_rate, betas=(optim.beta1, optim.beta2), fused=True)
    done = 0

    def autocast() -> AbstractContextManager[Any]:
        return torch.autocast(device, dtype=torch.bfloat16) if precision == "bf16" else nullcontext()

    def run(iterations: int) -> None:
        nonlocal done
        for _ in range(iterations):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(optim, done, 10**6)
            with autocast():
                loss = run_model(*on_device(task.batch(0, done, batch_size), torch.device(device)))
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), optim.clip_norm)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            done += 1

    return run
