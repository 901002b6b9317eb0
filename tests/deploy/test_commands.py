"""What our files tell people and machines to run exists: commands, options, targets, modules."""

import re
from pathlib import Path

import pytest
import yaml
from typer.main import get_command

import loadtest.__main__ as loadtest_cli
from tests.deploy import commands, dockerfile
from tests.deploy.kustomize import build, containers_of

ROOT = Path(__file__).parents[2]
PAGES = commands.pages(ROOT)
MAKEFILE = (ROOT / "Makefile").read_text()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_page_names_commands_that_exist(page: Path) -> None:
    text = page.read_text()
    wrong = [commands.objection(found) for found in commands.commands_in(text)]
    assert [each for each in wrong if each] == []
    targets = set(re.findall(r"^([a-z]+):", MAKEFILE, flags=re.MULTILINE))
    assert set(commands.make_targets_in(text)) <= targets
    for module, *rest in commands.modules_in(text):
        assert module_file(module), module
        if module == "loadtest" and rest and rest[0].islower():
            assert rest[0] in getattr(get_command(loadtest_cli.app), "commands", {})


def module_file(name: str) -> bool:
    """Whether the module lies in the tree; it is not imported, training takes long."""
    path = Path(*name.split("."))
    return any(
        (ROOT / folder / path).with_suffix(".py").is_file()
        or (ROOT / folder / path / "__main__.py").is_file()
        for folder in ("service", ".")
    )


def test_the_pages_do_name_commands() -> None:
    found = [each[0] for page in PAGES for each in commands.commands_in(page.read_text()) if each]
    assert {"serve", "check", "convert", "methods", "key", "demo", "score"} <= set(found)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_page_links_to_files_that_exist(page: Path) -> None:
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text())
    missing = [link for link in links if not (page.parent / link).exists()]
    assert missing == []


def test_the_image_and_compose_start_a_command_that_exists() -> None:
    image = dockerfile.parse((ROOT / "docker/Dockerfile").read_text())[-1]
    entry, command = (dockerfile.exec_form(image.of(verb)[0]) for verb in ("ENTRYPOINT", "CMD"))
    assert entry == ["rewardd"]
    assert commands.objection(command) is None
    compose = yaml.safe_load((ROOT / "docker/compose.yaml").read_text())
    for service in compose["services"].values():
        assert commands.objection(service["command"]) is None


@pytest.mark.parametrize("folder", ["base", "overlays/demo", "overlays/gpu"])
def test_the_pods_start_a_command_that_exists(folder: str) -> None:
    for found in build(ROOT / "deploy" / folder):
        for container in containers_of(found):
            assert "command" not in container  # the image's entry point
            assert commands.objection(container["args"]) is None


def test_the_makefile_starts_a_command_that_exists() -> None:
    found = re.findall(r"\$\(BIN\)/rewardd ([^\n]*)", MAKEFILE)
    assert found
    for line in found:
        assert commands.objection(line.replace("$(ARGS)", "").split()) is None


@pytest.mark.parametrize(
    "line",
    ["rewardd sevre", "rewardd serve --modle X", "rewardd check A B", "rewardd score --url"],
)
def test_a_wrong_command_is_noticed(line: str) -> None:
    (arguments,) = commands.commands_in(f"`{line}`")
    assert commands.objection(arguments)


def test_commands_are_found_where_people_write_them() -> None:
    page = (
        "Run `rewardd methods`.\n\n```sh\n$ rewardd serve \\\n  --demo  # here\n"
        "docker run --rm -v a:b rewardd:0.1.0-gpu key lab >key.txt\n```\n\n    rewardd demo\n"
    )
    assert sorted(commands.commands_in(page)) == [
        ["demo"],
        ["key", "lab"],
        ["methods"],
        ["serve", "--demo"],
    ]
