"""Every `rewardd ...` command that our files name, and whether the CLI knows it."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import typer.main

from rewardd.cli import app

_FENCE = re.compile(r"^```(?:sh|bash|console)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_INDENTED = re.compile(r"^    (rewardd .*)$", re.MULTILINE)
_INLINE = re.compile(r"`(rewardd [^`\n]+)`")
_IN_DOCKER = re.compile(r"^\S*rewardd:\d[\w.-]*$")


def commands_in(page: str) -> Iterator[list[str]]:
    """The arguments of each command of a Markdown page: in shell blocks, indented, and in text."""
    for block in _FENCE.findall(page):
        for line in re.sub(r"\\\n", " ", block).splitlines():
            yield from _commands_of(line)
    for line in [*_INDENTED.findall(page), *_INLINE.findall(page)]:
        yield from _commands_of(line)


def _commands_of(line: str) -> Iterator[list[str]]:
    """`rewardd ...`, or what a container of the image is started with."""
    try:
        words = shlex.split(line.removeprefix("$ "), comments=True)
    except ValueError:  # a quotation that goes on in the next line
        return
    for index, word in enumerate(words):
        if word == "rewardd" and index == 0:
            yield _until_operator(words[1:])
        elif _IN_DOCKER.match(word) and "run" in words[:index] and words[0] == "docker":
            yield _until_operator(words[index + 1 :])


def _until_operator(words: list[str]) -> list[str]:
    ends = [i for i, word in enumerate(words) if re.match(r"^(\d?[<>|]|&&|;)", word)]
    return words[: min(ends, default=len(words))]


def make_targets_in(page: str) -> Iterator[str]:
    """The targets of `make TARGET` in the page."""
    for block in [*_FENCE.findall(page), *re.findall(r"`(make [^`]+)`", page)]:
        yield from re.findall(r"^make ([a-z]+)", block, flags=re.MULTILINE)


def modules_in(page: str) -> Iterator[list[str]]:
    """The words after `python -m` in the page."""
    for words in re.findall(r"python -m ((?:loadtest|rewardd)[\w.]*[^`\n#]*)", page):
        yield words.split()


def objection(arguments: list[str]) -> str | None:
    """Why the CLI would not take these arguments; None when it would."""
    if not arguments:
        return None
    root = typer.main.get_command(app)
    known = getattr(root, "commands", {})
    if arguments[0] in ("--help",):
        return None
    command = known.get(arguments[0])
    if command is None:
        return f"no command `{arguments[0]}`"
    try:
        context = command.context_class(command, info_name=arguments[0])
        _, rest, _ = command.make_parser(context).parse_args(list(arguments[1:]))
    except Exception as error:  # whatever the parser calls an unknown option
        return f"{arguments}: {error}"
    return f"{arguments}: too many arguments {rest}" if rest else None


def pages(root: Path) -> list[Path]:
    """All Markdown pages for users, and the README files beside what they describe."""
    found = [root / "README.md", root / "CONTRIBUTING.md", root / "CHANGELOG.md"]
    for folder in ("docs", "docker", "deploy"):
        found += sorted((root / folder).rglob("*.md"))
    return found
