"""A Dockerfile as instructions, and the rules it must keep. A rule yields what is wrong."""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

_BASE = re.compile(r"[a-z0-9./_-]+:\d+\.\d+\.\d+[\w.-]*(@sha256:[0-9a-f]{64})?")
_EXACT = re.compile(r"[A-Za-z0-9._-]+==[0-9][\w.]*")
_PIP = re.compile(r"\bpip install ([^;&|]*)")
_SECRET = re.compile(r"key|token|secret|password", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Instruction:
    verb: str
    words: str


@dataclass(frozen=True, slots=True)
class Stage:
    """From one FROM to the next; `base` as it is written, `name` or ""."""

    base: str
    name: str
    body: list[Instruction]

    def of(self, verb: str) -> list[str]:
        return [each.words for each in self.body if each.verb == verb]


def parse(text: str) -> list[Stage]:
    """The stages; continuation lines joined, comments left out, exactly as docker reads them."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n", " ", "\n".join(lines))
    stages: list[Stage] = []
    for line in filter(None, map(str.strip, joined.splitlines())):
        verb, _, words = line.partition(" ")
        words = re.sub(r"\s+", " ", words.strip())
        if verb == "FROM":
            base, _, name = words.partition(" AS ")
            stages.append(Stage(base, name, []))
        else:
            stages[-1].body.append(Instruction(verb, words))
    return stages


def environment(stage: Stage) -> dict[str, str]:
    """The variables that a stage sets."""
    pairs = [word for words in stage.of("ENV") for word in words.split(" ")]
    return dict(pair.split("=", 1) for pair in pairs)


def exec_form(words: str) -> list[str]:
    """The program and arguments of `["...", "..."]`; ValueError for the shell form."""
    found = json.loads(words)
    if not (isinstance(found, list) and all(isinstance(word, str) for word in found)):
        raise ValueError(words)
    return found


def healthcheck(stage: Stage) -> list[str]:
    (words,) = stage.of("HEALTHCHECK")
    return exec_form(words.partition("CMD ")[2])


def pip_installs(stages: list[Stage]) -> list[str]:
    """The arguments of every `pip install`, in order."""
    runs = [words for stage in stages for words in stage.of("RUN")]
    return [found.strip() for words in runs for found in _PIP.findall(words)]


Rule: TypeAlias = Callable[[list[Stage]], Iterator[str]]
RULES: dict[str, Rule] = {}


def rule(check: Rule) -> Rule:
    RULES[getattr(check, "__name__", "")] = check
    return check


def broken(text: str) -> list[str]:
    stages = parse(text)
    return [f"{name}: {what}" for name, check in RULES.items() for what in check(stages)]


@rule
def bases_are_pinned(stages: list[Stage]) -> Iterator[str]:
    known: set[str] = set()
    for stage in stages:
        if stage.base not in known and not _BASE.fullmatch(stage.base):
            yield f"FROM {stage.base}"
        known.add(stage.name)


@rule
def the_image_runs_as_nobody_special(stages: list[Stage]) -> Iterator[str]:
    users = stages[-1].of("USER")
    if users != ["10001:10001"]:
        yield f"USER {users}"
    verbs = [each.verb for each in stages[-1].body]
    after = verbs[verbs.index("USER") + 1 :] if users else verbs
    if {"RUN", "COPY"} & set(after):
        yield "something is made after the USER"


@rule
def versions_are_exact(stages: list[Stage]) -> Iterator[str]:
    for arguments in pip_installs(stages):
        words = arguments.split()
        named = [w for w in words if not w.startswith(("-", "$", ".", "requirements/"))]
        if any(not _EXACT.fullmatch(word) for word in named):
            yield f"pip install {arguments}"
        if "-r" in words and not {"--require-hashes", "--no-deps"} <= set(words):
            yield f"a lock without hashes: pip install {arguments}"
        is_local = any(word.startswith(".") for word in words)
        if is_local and not {"--no-deps", "--no-build-isolation"} <= set(words):
            yield f"dependencies are resolved: pip install {arguments}"
    runs = " ".join(words for stage in stages for words in stage.of("RUN"))
    if re.search(r"\b(curl|wget)\b|apt(-get)? install|pip install.*--upgrade", runs):
        yield "something unpinned is fetched"


@rule
def nothing_is_cached_or_fetched_by_add(stages: list[Stage]) -> Iterator[str]:
    for stage in stages:
        if pip_installs([stage]) and environment(stage).get("PIP_NO_CACHE_DIR") != "1":
            yield "pip keeps a cache"
        if stage.of("ADD"):
            yield "ADD; use COPY"


@rule
def no_secret_is_baked_in(stages: list[Stage]) -> Iterator[str]:
    for stage in stages:
        names = [*environment(stage), *(words.partition("=")[0] for words in stage.of("ARG"))]
        for name in names:
            if _SECRET.search(name):
                yield f"{name} is kept in the image"
        if any("-e " in arguments for arguments in pip_installs([stage])):
            yield "an editable install points out of the image"


@rule
def the_image_says_whether_it_lives(stages: list[Stage]) -> Iterator[str]:
    last = stages[-1]
    if "/livez" not in " ".join(last.of("HEALTHCHECK")):
        yield "no HEALTHCHECK on /livez"


@rule
def signals_reach_the_server(stages: list[Stage]) -> Iterator[str]:
    last = stages[-1]
    for verb, expected in (("ENTRYPOINT", ["rewardd"]), ("CMD", ["serve"])):
        try:
            found = [exec_form(words) for words in last.of(verb)]
        except ValueError:
            found = []
        if found != [expected]:
            yield f"{verb} {last.of(verb)}"


@rule
def a_read_only_root_is_enough(stages: list[Stage]) -> Iterator[str]:
    values = environment(stages[-1])
    home = values.get("HOME", "/root")
    if values.get("REWARDD_DATA_DIR") != home or home != "/var/lib/rewardd":
        yield "the data directory and HOME differ"
    if values.get("PYTHONDONTWRITEBYTECODE") != "1":
        yield "Python would write beside its modules"
