"""docs/openapi.json is what the code does: made from it, valid, complete, and kept by a running stack."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jsonschema_rs
import pytest

from loop_runner import errors
from tests.conftest import ROOT, create_database, drop_database
from tests.sample_events import GIVEN, SECRET
from tools.local.stack import Stack
from tools.local.template import load_functions
from tools.openapi.__main__ import FILE, text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

DOCUMENT: dict[str, Any] = json.loads(FILE.read_text())
OPERATIONS = {
    (method.upper(), path): operation
    for path, methods in DOCUMENT["paths"].items()
    for method, operation in methods.items()
}
NO_OPERATION = {"$default"}


def examples() -> Iterator[tuple[str, dict[str, Any], Any]]:
    """Where each example stands, its schema and its value."""
    for (method, path), operation in OPERATIONS.items():
        contents = [operation.get("requestBody", {}), *operation["responses"].values()]
        for content in contents:
            for medium in content.get("content", {}).values():
                for name, example in medium.get("examples", {}).items():
                    value = resolved(example)["value"]
                    yield f"{method} {path} {name}", medium["schema"], value


def resolved(node: dict[str, Any]) -> dict[str, Any]:
    """What a reference of the document refers to."""
    if "$ref" not in node:
        return node
    found: Any = DOCUMENT
    for key in node["$ref"].removeprefix("#/").split("/"):
        found = found[key]
    assert isinstance(found, dict)
    return found


def test_the_file_is_what_the_code_makes() -> None:
    assert FILE.read_text() == text(), "run `make openapi`"


def test_each_route_of_the_template_is_an_operation_and_each_operation_a_route() -> None:
    functions = load_functions(ROOT / "template.yaml", GIVEN)
    keys = {route.key for function in functions.values() for route in function.routes}
    assert {f"{method} {path}" for method, path in OPERATIONS} == keys - NO_OPERATION


@pytest.mark.parametrize(("where", "schema", "value"), [pytest.param(*each, id=each[0]) for each in examples()])
def test_each_example_is_of_its_schema(where: str, schema: dict[str, Any], value: Any) -> None:
    jsonschema_rs.Draft202012Validator({**schema, "components": DOCUMENT["components"]}).validate(value)


def test_each_operation_has_an_example_of_each_answer_and_body() -> None:
    have = {where.rpartition(" ")[0] for where, _, _ in examples()}
    texts = {("GET", "/console"), ("GET", "/console/{file}"), ("GET", "/api/openapi.json"), ("GET", "/api/health")}
    assert {f"{method} {path}" for method, path in OPERATIONS.keys() - texts} <= have
    for (method, path), operation in OPERATIONS.items():
        if "requestBody" in operation:
            assert operation["requestBody"]["content"]["application/json"]["examples"], (method, path)


def test_each_error_of_the_contract_is_an_answer_of_an_operation() -> None:
    documented = {
        (int(status), code)
        for operation in OPERATIONS.values()
        for status, answer in operation["responses"].items()
        if int(status) >= 400
        for code in answer["content"]["application/json"]["examples"]
    }
    internal = {"STEP_NOT_FOUND", "STEP_EXISTS", "ILLEGAL_TRANSITION"}
    no_operations = {"METHOD_NOT_ALLOWED"}  # of a path, whatever the method
    classes = [each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, errors.LoopError)]
    assert {(each.status, each.code) for each in classes if each.code not in internal | no_operations} == documented


def test_open_are_health_the_console_and_what_github_signs() -> None:
    is_open = {key for key, operation in OPERATIONS.items() if operation.get("security") == []}
    github = ("POST", "/api/github/webhook")
    assert is_open == {("GET", "/api/health"), ("GET", "/console"), ("GET", "/console/{file}"), github}


def test_references_lead_somewhere_and_every_component_is_used() -> None:
    content = json.dumps(DOCUMENT)
    references = set(re.findall(r'"\$ref": "#/([^"]+)"', content))
    for reference in references:
        assert resolved({"$ref": f"#/{reference}"}) is not None
    components = {f"components/{kind}/{name}" for kind, all_of in DOCUMENT["components"].items() for name in all_of}
    assert {each for each in components if not each.startswith("components/securitySchemes/")} == references


def test_schemathesis_finds_no_answer_that_is_not_in_the_document(
    server_url: str, migrated_template: str, tmp_path: Path, count: Callable[..., None]
) -> None:
    """No 500, no undocumented status, header or type, no answer that is not of its schema, no bad request accepted."""
    url = create_database(server_url, migrated_template)
    environment = {"PATH": os.environ["PATH"], "GITHUB_WEBHOOK_SECRET": SECRET}
    with Stack(port=0, database_url=url, environment=environment) as stack:
        done = subprocess.run(
            [
                str(Path(sys.executable).with_name("schemathesis")), "run", str(FILE),
                "--url", stack.url, "--header", "x-afu9-sub: ann",
                "--seed", "1", "--max-examples", "5", "--generation-database", "none",
                # what the local stack accepts anyone's name for, what only the rows decide, and 428 where it wants 400
                "--exclude-checks", "ignored_auth,positive_data_acceptance,missing_required_header",
                "--continue-on-failure", "--warnings", "off", "--no-color",
            ],
            cwd=tmp_path, capture_output=True, text=True, timeout=540, check=False,
        )  # fmt: skip
    drop_database(server_url, url)
    generated = re.search(r"(\d+) generated", done.stdout)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-1000:]
    assert generated
    count("generated requests", int(generated[1]))
    assert f"Tested: {len(OPERATIONS)}" in done.stdout
