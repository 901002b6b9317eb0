"""Encoders: bidirectional, so no prefix can be shared; padded batches, equal inputs once."""

from collections.abc import Sequence

import numpy as np
import torch

from rewardd.engines.rendering import Rendered
from rewardd.engines.torch.checkpoint import Checkpoint


class EncoderForward:
    """Sequence logits [labels] of an encoder's own classification head."""

    def __init__(self, checkpoint: Checkpoint, max_batch_tokens: int) -> None:
        self._model = checkpoint.sequence
        self._max_batch_tokens = max_batch_tokens

    @torch.inference_mode()
    def __call__(self, inputs: Sequence[Rendered]) -> tuple[list[list[list[float]]], list[int]]:
        """One row of logits an input (as PoolOutput.values), and the tokens computed for it."""
        keys = [(tuple(one.token_ids), tuple(one.type_ids or ())) for one in inputs]
        first = {key: index for index, key in reversed(list(enumerate(keys)))}
        logits: dict[int, list[float]] = {}
        for batch in self._batches(sorted(first.values(), key=lambda i: len(keys[i][0])), inputs):
            rows = self._logits([inputs[index] for index in batch])
            logits.update(zip(batch, rows, strict=True))
        values = [[logits[first[key]]] for key in keys]
        return values, [len(key[0]) if first[key] == i else 0 for i, key in enumerate(keys)]

    def _batches(self, order: list[int], inputs: Sequence[Rendered]) -> list[list[int]]:
        batches: list[list[int]] = []
        for index in order:
            width = len(inputs[index].token_ids)
            if batches and (len(batches[-1]) + 1) * width <= self._max_batch_tokens:
                batches[-1].append(index)
            else:
                batches.append([index])
        return batches

    def _logits(self, batch: list[Rendered]) -> list[list[float]]:
        assert self._model is not None
        width = max(len(one.token_ids) for one in batch)
        arrays = {"input_ids": _padded([one.token_ids for one in batch], width)}
        arrays["attention_mask"] = _padded([[1] * len(one.token_ids) for one in batch], width)
        if any(one.type_ids is not None for one in batch):
            arrays["token_type_ids"] = _padded([one.type_ids or [] for one in batch], width)
        device = next(self._model.parameters()).device
        tensors = {key: torch.from_numpy(array).to(device) for key, array in arrays.items()}
        rows: list[list[float]] = self._model(**tensors).logits.float().tolist()
        return rows


def _padded(rows: list[list[int]], width: int) -> np.ndarray[tuple[int, int], np.dtype[np.int64]]:
    array = np.zeros((len(rows), width), dtype=np.int64)
    for index, row in enumerate(rows):
        array[index, : len(row)] = row
    return array
