"""Train the three demo models: `python -m rewardd.demo.train [--out DIR] [--seed N]`.

Five stages, seeds fixed; the last line printed is a JSON object with the figures.

1. A Qwen3 body learns to write solutions. On the way, when it is right about 0.45 of the time, it is
   saved as the generator: imperfect, so that choosing among its samples has something to win.
2. The generator is sampled on training problems; the exact checker labels what it wrote.
3. The Qwen3 body goes on as the outcome model, on these samples, corrupted and right solutions.
4. A Qwen2 body learns to write, then to judge every step, in the same way: the process model.
5. The figures are measured on held-out problems from the saved bf16 weights.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import Tensor

from rewardd.demo import data, tokenizer, train_figures, train_models
from rewardd.demo.train_examples import (
    IGNORE,
    Batch,
    Chain,
    Form,
    batches,
    right_chain,
    wrong_chain,
)
from rewardd.demo.train_loop import Schedule, fit, judging_loss, writing_loss
from rewardd.demo.train_models import Judge, Writer
