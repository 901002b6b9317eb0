"""One loop for all four trainings: Muon on matrices, AdamW on the rest, warm-up then cosine."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from rewardd.demo.train_examples import IGNORE, Batch
from rewardd.demo.train_models import Judge, Writer

LANGUAGE_WEIGHT, OWN_WEIGHT = 0.3, 0.1

Loss = Callable[[Batch], Tensor]


@dataclass(frozen=True, slots=True)
class Schedule:
    """How long and how fast to learn; rates are peaks."""

    num_steps: int
    matrix_rate: float = 1e-2
    other_rate: float = 3e-3
    num_warmup: int = 30

    def share(self, step: int) -> float:
        """Return the part of the peak rate at a step."""
        warm = min(1.0, (step + 1) / self.num_warmup)
        return warm * 0.5 * (1 + math.cos(math.pi * step / self.num_steps))


def fit(
    name: str,
    module: nn.Module,
    loss_of: Loss,
    batches: Iterable[Batch],
    schedule: Schedule,
    after_step: Callable[[int], None] | None = None,
) -> None:
    """Train `module` in place for `schedule.num_steps` batches."""
    optimizers = _optimizers(module, schedule)
    peaks = [optimizer.param_groups[0]["lr"] for optimizer in optimizers]
    started, running = time.monotonic(), 0.0
    module.train()
    for step, batch in zip(range(schedule.num_steps), batches, strict=False):
        for optimizer, peak in zip(optimizers, peaks, strict=True):
            optimizer.param_groups[0]["lr"] = peak * schedule.share(step)
        loss = loss_of(batch)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        running += (loss.item() - running) / min(step + 1, 50)
        if (step + 1) % 50 == 0:
            seconds = time.monotonic() - started
            print(f"{name}: step {step + 1}, loss {running:.4f}, {seconds:.0f} s", flush=True)
        if after_step:
            after_step(step + 1)
    module.eval()


def _optimizers(module: nn.Module, schedule: Schedule) -> list[torch.optim.Optimizer]:
    """Return Muon for the inner matrices and AdamW for embedding, norms, biases and head.

    Muon (orthogonalised momentum) reached in 120 steps a loss that AdamW had not in 300.
    """
    inner = [p for name, p in module.named_parameters() if p.ndim == 2 and ".layers." in name]
    known = {id(parameter) for parameter in inner}
    others = [parameter for parameter in module.parameters() if id(parameter) not in known]
    return [
        torch.optim.Muon(
            inner, lr=schedule.matrix_rate, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"
        ),
        torch.optim.AdamW(others, lr=schedule.other_rate, betas=(0.9, 0.95), weight_decay=0.0),
    ]


def writing_loss(writer: Writer) -> Loss:
    """Return the loss of the lower storeys alone."""

    def loss(batch: Batch) -> Tensor:
        next_token, own_token = writer(batch.ids, batch.targets != IGNORE)
        return _language_loss(next_token, own_token, batch)

    return loss


def _language_loss(next_token: Tensor, own_token: Tensor, batch: Batch) -> Tensor:
    """Return next-token loss, and a share of own-token loss, where a next token is to be learnt."""
    written = batch.targets != IGNORE
    next_loss = cross_entropy(next_token, batch.targets[written])
    return next_loss + OWN_WEIGHT * cross_entropy(own_token, batch.ids[written])


def judging_loss(judge: Judge) -> Loss:
    """Return label loss at the judged positions plus what keeps the lower storeys at their duty."""

    def loss(batch: Batch) -> Tensor:
        written, compared = batch.targets != IGNORE, batch.tokens != IGNORE
        judged = batch.labels != IGNORE
        said = judge(batch.ids, written, compared, judged)
        next_token, own_token = said.language
        writing = _language_loss(next_token, own_token, batch)
        comparing = _balanced(said.tokens, batch.tokens[compared])
        judging = _label_loss(said.labels, batch.labels[judged])
        return judging + comparing + LANGUAGE_WEIGHT * writing

    return loss


def _balanced(logits: Tensor, labels: Tensor) -> Tensor:
    """Return binary loss with right and wrong tokens [n] at equal weight: few tokens are wrong."""
    losses = binary_cross_entropy_with_logits(logits, labels.float(), reduction="none")
    return torch.stack([losses[labels == label].mean() for label in (0, 1)]).mean()


def _label_loss(verdicts: Tensor, labels: Tensor) -> Tensor:
    """Return the loss of one logit (outcome) or of two classes (process); verdicts [n, 1 or 2]."""
    if verdicts.shape[1] == 1:
        return binary_cross_entropy_with_logits(verdicts[:, 0], labels.float())
    return cross_entropy(verdicts, labels)
