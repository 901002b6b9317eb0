"""The demo task: multi-step integer arithmetic, one operation a line, checked exactly.

A problem is an expression over + - * whose every value lies in 0..99, after RandomCalculation
(arXiv:2507.10532). A solution reduces it, one operation a line, and ends with the answer:

    Compute (12 + 7) * 3 - 5
    12 + 7 = 19
    19 * 3 = 57
    57 - 5 = 52
    answer: 52

A line is a *right step* iff all lines before it are right and it is either

- `a sign b = c`, where `a sign b` is an operation of the expression as reduced so far with both
  operands already numbers (any such operation, in any order), and c is its exact value; it then
  reduces that operation to c; or
- `answer: c`, where the expression is reduced to the single number c, and no answer came before.

Everything else is wrong: other text, an empty line, anything after the answer, and every line
after the first wrong one. `a - b - c` means `(a - b) - c`, so `b - c` is no operation of it.

Pure Python: no torch, no clock, no global random; whatever draws takes a seeded `random.Random`.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias, cast

Sign = Literal["+", "-", "*"]
Split = Literal["train", "held_out"]
Node: TypeAlias = "int | Operation"
Mistake: TypeAlias = "Callable[[Problem, random.Random], list[str]]"

MAX_VALUE = 99
MIN_OPERATIONS, MAX_OPERATIONS = 2, 5
PROMPT = "Compute "
ANSWER = "answer: "

_SIGNS: tuple[Sign, ...] = ("+", "-", "*")
_PRECEDENCE: dict[Sign, int] = {"+": 1, "-": 1, "*": 2}
_LEAF_LIMITS = (9, 30, 60)
# Six digits at most: a longer number is no step, and int() refuses very long ones.
_NUMBER = r"(0|[1-9][0-9]{0,5})"
_STEP = re.compile(rf"{_NUMBER} ([+*-]) {_NUMBER} = {_NUMBER}")
_ANSWER = re.compile(re.escape(ANSWER) + _NUMBER)
_SYMBOL = re.compile(r" *([0-9]+|[-+*()])")
_ADJACENT = re.compile(rf"\b{_NUMBER} ([+*-]) {_NUMBER}\b")


@dataclass(frozen=True, slots=True)
class Operation:
    """An inner node of an expression: two operands under a sign."""

    left: Node
    sign: Sign
    right: Node


class Step(NamedTuple):
    """One line of a solution, `left sign right = result`; not necessarily a right one."""

    left: int
    sign: Sign
    right: int
    result: int

    def __str__(self) -> str:
        return f"{self.left} {self.sign} {self.right} = {self.result}"


@dataclass(frozen=True, slots=True)
class Problem:
    """An expression to compute; equal expressions are equal problems."""

    root: Node

    @property
    def text(self) -> str:
        """What the user asks: `Compute (12 + 7) * 3 - 5`."""
        return PROMPT + render(self.root)

    @property
    def answer(self) -> int:
        return evaluate(self.root)


def apply(left: int, sign: Sign, right: int) -> int:
    """Return the exact value of one operation."""
    if sign == "*":
        return left * right
    return left + right if sign == "+" else left - right


def evaluate(node: Node) -> int:
    """Return the exact value of an expression."""
    if isinstance(node, int):
        return node
    return apply(evaluate(node.left), node.sign, evaluate(node.right))


def render(node: Node) -> str:
    """Write an expression with no more brackets than its tree needs."""
    if isinstance(node, int):
        return str(node)
    left, right = render(node.left), render(node.right)
    rank = _PRECEDENCE[node.sign]
    if isinstance(node.left, Operation) and _PRECEDENCE[node.left.sign] < rank:
        left = f"({left})"
    if isinstance(node.right, Operation) and _PRECEDENCE[node.right.sign] <= rank:
        right = f"({right})"
    return f"{left} {node.sign} {right}"


def parse(text: str) -> Problem:
    """Read a problem back from its text; ValueError when it is none."""
    source = text.removeprefix(PROMPT)
    symbols = _SYMBOL.findall(source)
    if "".join(symbols) != source.replace(" ", ""):
        raise ValueError(f"not an expression: {text!r}")
    symbols.append("")
    root = _parse_sum(symbols, 1)
    if symbols != [""]:
        raise ValueError(f"not an expression: {text!r}")
    return Problem(root)


def _parse_sum(symbols: list[str], rank: int) -> Node:
    """Take an expression of operators of at least `rank` off the front of `symbols`."""
    if symbols[0] == "(":
        symbols.pop(0)
        node = _parse_sum(symbols, 1)
        if symbols.pop(0) != ")":
            raise ValueError("a bracket is not closed")
    elif symbols[0].isdigit():
        node = int(symbols.pop(0))
    else:
        raise ValueError(f"a number or a bracket was expected, not {symbols[0]!r}")
    while _PRECEDENCE.get(cast(Sign, symbols[0]), 0) >= rank:
        sign = cast(Sign, symbols.pop(0))
        node = Operation(node, sign, _parse_sum(symbols, _PRECEDENCE[sign] + 1))
    return node


# Drawing problems


def split_of(problem: Problem) -> Split:
    """Return the one split a problem belongs to, by the hash of its text: a tenth is held out."""
    digest = hashlib.sha256(problem.text.encode()).digest()
    return "held_out" if int.from_bytes(digest[:4], "big") % 10 == 0 else "train"


def generate(rng: random.Random, split: Split = "train", num_operations: int = 0) -> Problem:
    """Draw a problem of `split` with `num_operations` (0: 2 to 5, equally often)."""
    while True:
        count = num_operations or rng.randint(MIN_OPERATIONS, MAX_OPERATIONS)
        problem = Problem(_draw(rng, count)[0])
        if split_of(problem) == split:
            return problem


def problems(seed: int, split: Split = "train") -> Iterator[Problem]:
    """Yield problems of `split` without end; equal seeds, equal problems."""
    rng = random.Random(seed)
    while True:
        yield generate(rng, split)


def _draw(rng: random.Random, num_operations: int) -> tuple[Node, int]:
    """Draw an expression and its value, every value inside it in 0..MAX_VALUE."""
    if num_operations == 0:
        leaf = rng.randint(1, rng.choice(_LEAF_LIMITS))
        return leaf, leaf
    share = rng.randrange(num_operations)
    left, a = _draw(rng, share)
    right, b = _draw(rng, num_operations - 1 - share)
    # Products rarely fit; taking them where they do keeps them about as frequent as sums.
    signs: list[Sign] = ["-"]
    signs += ["+", "+"] if a + b <= MAX_VALUE else []
    signs += ["*", "*", "*"] if 0 < a * b <= MAX_VALUE else []
    sign = rng.choice(signs)
    if sign == "-" and a < b:
        left, a, right, b = right, b, left, a
    return Operation(left, sign, right), apply(a, sign, b)


# Writing solutions


def solve(problem: Problem) -> list[str]:
    """Return the lines of the reference solution: leftmost operation first, then the answer."""
    return _write(problem.root, lambda _, step: step)


def _write(root: Node, slip: Callable[[int, Step], Step]) -> list[str]:
    """Write a solution, letting `slip` change the step at an index; later steps follow it.

    What follows a slip may leave 0..MAX_VALUE and is wrapped back: it is wrong anyway.
    """
    lines: list[str] = []

    def value(node: Node) -> int:
        if isinstance(node, int):
            return node
        left, right = value(node.left), value(node.right)
        result = apply(left, node.sign, right) % (MAX_VALUE + 1)
        step = slip(len(lines), Step(left, node.sign, right, result))
        lines.append(str(step))
        return step.result

    answer = value(root)
    return [*lines, f"{ANSWER}{answer}"]


# Checking chains


def first_error(problem: Problem, lines: Sequence[str]) -> int | None:
    """Return the index of the first line that is no right step, or None (module docstring)."""
    # Equal operations can stand at several places: keep every expression the chain may mean.
    states: list[Node] = [problem.root]
    for index, line in enumerate(lines):
        states = _after(states, line)
        if not states:
            return index
    return None


def expected(problem: Problem, lines: Sequence[str]) -> list[list[str]]:
    """Return for each line the lines that would do at its place.

    A wrong result is gone along with: what follows from it is expected after it. A line that is
    wrong in another way leaves the problem, and nothing is expected after it (empty lists).
    """
    states: list[Node] = [problem.root]
    found: list[list[str]] = []
    for line in lines:
        found.append(list(dict.fromkeys(next for state in states for next in _nexts(state))))
        states = _after(states, line, exact=False)
    return found


def _nexts(state: Node) -> Iterator[str]:
    """Yield the right steps from one expression."""
    if isinstance(state, int):
        if state >= 0:
            yield f"{ANSWER}{state}"
        return
    if isinstance(state.left, int) and isinstance(state.right, int):
        result = apply(state.left, state.sign, state.right)
        yield str(Step(state.left, state.sign, state.right, result))
        return
    for operand in (state.left, state.right):
        if isinstance(operand, Operation):
            yield from _nexts(operand)


def _after(states: Sequence[Node], line: str, exact: bool = True) -> list[Node]:
    """Return the expressions that a step leads to, empty when it is wrong.

    With `exact` false an operation of the expression is gone along with though miscalculated.
    """
    if match := _STEP.fullmatch(line):
        left, sign, right, result = match.groups()
        step = Step(int(left), cast(Sign, sign), int(right), int(result))
        if exact and apply(*step[:3]) != step.result:
            return []
        return list(dict.fromkeys(new for state in states for new in _reduced(state, step)))
    match = _ANSWER.fullmatch(line)
    # -1 stands for "answered": no line is a right step from it.
    return [-1] if match and int(match[1]) in states else []


def _reduced(node: Node, step: Step) -> Iterator[Node]:
    """Yield the expressions left when one operation equal to `step` is replaced by its result."""
    if isinstance(node, int):
        return
    if (node.left, node.sign, node.right) == step[:3]:
        yield step.result
        return
    for left in _reduced(node.left, step):
        yield Operation(left, node.sign, node.right)
    for right in _reduced(node.right, step):
        yield Operation(node.left, node.sign, right)


def extract_answer(text: str) -> int | None:
    """Return the number of the last line if that line is an answer."""
    match = _ANSWER.fullmatch(text.rstrip().rpartition("\n")[2])
    return int(match[1]) if match else None


# Corrupting chains, to train on more mistakes than sampling makes


def miscalculate(problem: Problem, rng: random.Random) -> list[str]:
    """Return a chain in which every result is wrong with probability one half, each followed."""
    return _write(
        problem.root, lambda _, step: _wrong_result(step, rng) if rng.random() < 0.5 else step
    )


def corrupt(problem: Problem, rng: random.Random) -> list[str]:
    """Return a chain with at least one wrong step, the mistake drawn from every kind below."""
    while True:
        chain = rng.choice(_MISTAKES)(problem, rng)
        if first_error(problem, chain) is not None:
            return chain


def _slipped(problem: Problem, rng: random.Random) -> list[str]:
    """One step computed, copied or read wrongly; the rest follows from it."""
    at = rng.randrange(len(solve(problem)) - 1)
    change = rng.choice((_wrong_result, _wrong_result, _wrong_operand, _wrong_sign))
    return _write(problem.root, lambda i, step: change(step, rng) if i == at else step)


def _near(value: int, rng: random.Random) -> int:
    """Draw another value in 0..MAX_VALUE, usually one that is easily confused with `value`."""
    other = value + rng.choice((-10, -2, -1, 1, 2, 10))
    if rng.random() < 0.25 or not 0 <= other <= MAX_VALUE:
        other = rng.randint(0, MAX_VALUE)
    return other


def _wrong_result(step: Step, rng: random.Random) -> Step:
    return step._replace(result=_near(step.result, rng))


def _wrong_operand(step: Step, rng: random.Random) -> Step:
    left, right = step.left, step.right
    if rng.random() < 0.5:
        left = _near(left, rng)
    else:
        right = _near(right, rng)
    # A slip of the pen keeps the true result, a slip of the eye computes with the wrong number.
    result = step.result if rng.random() < 0.3 else apply(left, step.sign, right)
    return Step(left, step.sign, right, result % (MAX_VALUE + 1))


def _wrong_sign(step: Step, rng: random.Random) -> Step:
    sign = rng.choice(_SIGNS)
    result = apply(step.left, sign, step.right) % (MAX_VALUE + 1)
    return Step(step.left, sign, step.right, result)


def _misread(problem: Problem, rng: random.Random) -> list[str]:
    """Two neighbours combined although brackets or precedence forbid it."""
    lines: list[str] = []
    node = problem.root
    while isinstance(node, Operation):
        text = render(node)
        found = rng.choice(list(_ADJACENT.finditer(text)))
        left, sign, right = int(found[1]), cast(Sign, found[2]), int(found[3])
        step = Step(left, sign, right, apply(left, sign, right) % (MAX_VALUE + 1))
        lines.append(str(step))
        node = parse(f"{text[: found.start()]}{step.result}{text[found.end() :]}").root
    return [*lines, f"{ANSWER}{node}"]


def _skipped(problem: Problem, rng: random.Random) -> list[str]:
    """A step left out."""
    lines = solve(problem)
    del lines[rng.randrange(len(lines) - 1)]
    return lines


def _repeated(problem: Problem, rng: random.Random) -> list[str]:
    """A step written twice."""
    lines = solve(problem)
    at = rng.randrange(len(lines))
    return [*lines[: at + 1], *lines[at:]]


def _unfinished(problem: Problem, rng: random.Random) -> list[str]:
    """The value of some step given as the answer."""
    lines = solve(problem)[:-1]
    kept = lines[: rng.randint(1, len(lines))]
    return [*kept, f"{ANSWER}{rng.choice(kept).rpartition(' ')[2]}"]


def _misanswered(problem: Problem, rng: random.Random) -> list[str]:
    """A right solution with another number as the answer."""
    return [*solve(problem)[:-1], f"{ANSWER}{_near(problem.answer, rng)}"]


_MISTAKES: tuple[Mistake, ...] = (
    *(_slipped,) * 5,
    _misread,
    _misread,
    _skipped,
    _repeated,
    _unfinished,
    _misanswered,
)
