# SPDX-License-Identifier: Apache-2.0
"""The repository itself: licence headers, layers, packaging, containers, and that documents name things that exist."""

from __future__ import annotations

import ast
import json
import re
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

ROOT = Path(__file__).parent.parent
PACKAGES = ("core", "gateways", "csi", "sluicefs")


def tracked(*patterns: str) -> list[Path]:
    """Files of the repository, also when it came as an archive without git."""
    if (ROOT / ".git").exists() and shutil.which("git"):
        listed = subprocess.run(
            ["git", "-C", ROOT, "ls-files", "--", *patterns], capture_output=True, text=True, check=True
        )
        return [ROOT / line for line in listed.stdout.splitlines() if (ROOT / line).exists()]
    skipped = {".venv", ".git", "node_modules", ".sluice", "build", "dist"}
    return [p for pattern in patterns for p in ROOT.rglob(pattern) if not skipped.intersection(p.parts)]


def imported(path: Path) -> Iterator[tuple[str, int]]:
    """Modules that a file imports, wherever in the file, with the line."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module, node.lineno


# -- source ------------------------------------------------------------------------------------------


def test_every_source_file_carries_its_licence() -> None:
    lines = 3  # a script's first line is its interpreter
    bare = [
        str(path.relative_to(ROOT))
        for path in tracked("*.py", "*.sh", "Makefile", "Dockerfile", "*.yml", ".ci/run")
        if path.stat().st_size
        and "SPDX-License-Identifier: Apache-2.0" not in "\n".join(path.read_text().splitlines()[:lines])
    ]
    assert not bare


#: package -> what it must not import (docs/architecture.md, layers).
FORBIDDEN = {
    "core": {"gateways", "csi", "sluicefs", "aiohttp", "grpc", "click", "rich", "httptools", "tests"},
    "gateways": {"sluicefs", "csi", "click", "rich", "tests"},
    "csi": {"sluicefs", "tests"},
    "sluicefs": {"tests"},
}


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_point_downwards(package: str) -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {module}"
        for path in (ROOT / package).rglob("*.py")
        for module, line in imported(path)
        if module.split(".")[0] in FORBIDDEN[package]
    ]
    assert not wrong


#: Rooms below the gateways that speak HTTP: what several of them share, and no gateway itself.
SHARED_ROOMS = {"http"}


def test_no_gateway_imports_another() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {module}"
        for door in (ROOT / "gateways").iterdir()
        if door.is_dir()
        for path in door.rglob("*.py")
        for module, line in imported(path)
        if module.startswith("gateways.")
        and module.split(".")[1] not in ({door.name} if door.name in SHARED_ROOMS else {door.name, *SHARED_ROOMS})
    ]
    assert not wrong


def test_no_file_of_the_product_is_a_book() -> None:
    long = {
        str(path.relative_to(ROOT)): count
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
        if (count := len(path.read_text().splitlines())) > 600
    }
    assert not long


# -- packaging ------------------------------------------------------------------------------------------


def project() -> dict[str, Any]:
    document: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return document


def distribution(requirement: str) -> str:
    found = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert found
    return found[0].lower()


def test_each_dependency_has_its_reason_and_each_reason_its_dependency() -> None:
    text = (ROOT / "docs/dependencies.md").read_text()
    listed = {name.lower() for name in re.findall(r"^\| `([^`]+)` \|", text, re.MULTILINE)}
    extras = project().get("optional-dependencies", {})
    declared = {distribution(r) for r in project()["dependencies"]}
    declared |= {distribution(r) for group in extras.values() for r in group if not r.startswith("sluicefs[")}
    assert listed == declared


#: Import name -> distribution, where they differ.
IMPORT_NAMES = {
    "prometheus_client": "prometheus-client", "google_crc32c": "google-crc32c", "yaml": "pyyaml", "google": "protobuf",
}  # fmt: skip


def test_what_is_imported_is_declared() -> None:
    import sys

    extras = project().get("optional-dependencies", {})
    declared = {distribution(r) for r in project()["dependencies"]}
    declared |= {distribution(r) for name, group in extras.items() if name != "dev" for r in group}
    unknown = {
        f"{path.relative_to(ROOT)}:{line} imports {module}"
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
        for module, line in imported(path)
        if (top := module.split(".")[0]) not in sys.stdlib_module_names
        and top not in PACKAGES
        and IMPORT_NAMES.get(top, top).lower().replace("_", "-") not in {d.replace("_", "-") for d in declared}
    }
    assert not unknown


def test_the_licence_is_the_whole_text() -> None:
    text = (ROOT / "LICENSE").read_text()
    assert "Apache License" in text and "Version 2.0, January 2004" in text and "END OF TERMS AND CONDITIONS" in text


def test_the_version_is_said_once() -> None:
    import sluicefs

    assert project()["version"] == sluicefs.__version__
    assert f"## {sluicefs.__version__}" in (ROOT / "CHANGELOG.md").read_text()


# -- containers ------------------------------------------------------------------------------------------


def compose() -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    return document


def test_the_compose_file_follows_the_compose_specification() -> None:
    # tests/schemas/compose-spec.json is the schema of the Compose Specification project (Apache-2.0), as its Go
    # package compose-go v2.16.2 carries it.
    schema = json.loads((ROOT / "tests/schemas/compose-spec.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(compose(), schema, cls=jsonschema.Draft202012Validator)


def test_compose_services_wait_for_healthy_ones_and_hold_no_secret() -> None:
    services = compose()["services"]
    for name, service in services.items():
        for other, how in service.get("depends_on", {}).items():
            if how["condition"] == "service_healthy":
                assert "healthcheck" in services[other], f"{name} waits for {other}, which has no health check"
        for key, value in service.get("environment", {}).items():
            if re.search(r"PASSWORD|SECRET|ACCESS_KEY", key):
                assert re.fullmatch(r"\$\{[A-Z_]+:\?[^}]+\}", value), f"{name}: {key} must come from the environment"
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:"), f"{name} is open to the network"
        volumes = [v.split(":")[0] for v in service.get("volumes", [])]
        assert set(volumes) <= set(compose()["volumes"])


def test_compose_commands_are_commands_of_ours() -> None:
    from sluicefs.cli import COMMANDS, cli

    for name in ("format", "gateway"):
        command = compose()["services"][name]["command"]
        assert command[0] in COMMANDS
        parser = cli.get_command(None, command[0])  # type: ignore[arg-type]
        assert parser is not None
        parser.make_context(command[0], list(command[1:]))


def dockerfile() -> list[str]:
    """Instructions of the Dockerfile, continuation lines joined."""
    text = re.sub(r"\\\n", " ", (ROOT / "Dockerfile").read_text())
    return [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]


def test_the_image_runs_an_unprivileged_user_and_carries_no_compiler() -> None:
    words = ("ARG", "FROM", "ENV", "WORKDIR", "COPY", "RUN", "LABEL", "USER", "VOLUME", "EXPOSE", "STOPSIGNAL",
             "ENTRYPOINT", "CMD")  # fmt: skip
    lines = dockerfile()
    assert all(line.split()[0] in words for line in lines), "a word that is no instruction"
    stages = [i for i, line in enumerate(lines) if line.startswith("FROM")]
    assert len(stages) == 2 and all("slim" in lines[i] for i in stages)
    final = lines[stages[-1] :]
    users = [line.split()[1] for line in final if line.startswith("USER")]
    assert users and users[-1].split(":")[0] not in ("0", "root")
    assert not any("gcc" in line or "build-essential" in line for line in final)
    for line in final:
        if line.startswith(("ENTRYPOINT", "CMD")):
            assert isinstance(json.loads(line.split(None, 1)[1]), list), "the shell form loses signals"


def test_what_the_image_copies_exists_and_is_not_ignored() -> None:
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    for line in dockerfile():
        if line.startswith("COPY"):
            for source in line.split()[1:-1]:
                assert (ROOT / source).exists() and source in allowed, source


# -- documents ------------------------------------------------------------------------------------------

DOCUMENTS = ("README.md", "CONTRIBUTING.md", *(f"docs/{p.name}" for p in sorted((ROOT / "docs").glob("*.md"))))


@pytest.mark.parametrize("name", DOCUMENTS)
def test_links_and_paths_in_documents_exist(name: str) -> None:
    text = (ROOT / name).read_text()
    here = (ROOT / name).parent
    links = [link.split("#")[0] for link in re.findall(r"\]\(([^)]+)\)", text) if "://" not in link]
    paths = re.findall(r"`((?:core|gateways|sluicefs|tests|docs|csi|charts|bench)/[\w./-]+)`", text)
    missing = [link for link in links if link and not (here / link).exists()]
    missing += [path for path in paths if not (ROOT / path).exists()]
    assert not missing


@pytest.mark.parametrize("name", DOCUMENTS)
def test_commands_in_documents_exist(name: str) -> None:
    from sluicefs.cli import COMMANDS

    text = (ROOT / name).read_text()
    blocks = "\n".join(re.findall(r"```(?:sh|console|bash)\n(.*?)```", text, re.DOTALL))
    inline = "\n".join(re.findall(r"`([^`\n]+)`", text))
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for target in re.findall(r"(?:^|\s)make ([a-z-]+)", f"{blocks}\n{inline}"):
        assert target in targets, f"make {target}"
    for command in re.findall(r"(?:^|\s|/)sluice ([a-z]+)", f"{blocks}\n{inline}"):
        assert command in COMMANDS, f"sluice {command}"


def test_the_makefile_explains_each_target() -> None:
    make = shutil.which("make")
    assert make, "make is part of what the README asks for"
    shown = subprocess.run([make, "-C", str(ROOT), "help"], capture_output=True, text=True, check=True).stdout
    for target in ("serve", "test", "test-all", "lint", "bench", "clean", "image"):
        assert f"make {target}" in shown


@pytest.mark.parametrize("script", [".ci/run", "tests/tools/install-needs.sh"])
def test_scripts_are_executable_and_parse(script: str) -> None:
    path = ROOT / script
    assert path.stat().st_mode & 0o111
    subprocess.run(["bash", "-n", path], check=True)


def test_no_path_of_this_machine_is_in_the_tree() -> None:
    places = {str(ROOT) + "/", str(Path.home()) + "/"} - {"/root/"}  # containers have that home, and so do examples
    found = [
        f"{path.relative_to(ROOT)}: {place}"
        for path in tracked("*.py", "*.md", "*.sh", "*.toml", "*.yml", "Makefile", "Dockerfile")
        for place in places
        if place in path.read_text()
    ]
    assert not found
