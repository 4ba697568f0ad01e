"""Who may call what: each route of the contract is wired to its function, behind an authorizer; there are no others."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest

from functions.github_webhook import app as github_webhook
from functions.loop_api import app as loop_api
from functions.run_next_step import app as run_next_step
from tests.conftest import ROOT
from tests.template.deployment import BOUNDARY, ORIGIN, OUTSIDE, SOURCE, TOKENS, WEBHOOK, Deployment

if TYPE_CHECKING:
    from loop_runner.http import Api

DOCUMENT = json.loads((ROOT / "docs/openapi.json").read_text())
OPERATIONS = {f"{method.upper()} {path}" for path, item in DOCUMENT["paths"].items() for method in item}
WEBHOOK_ROUTE = "POST /api/github/webhook"
OPEN = {"GET /api/health", "GET /console", "GET /console/{file}", WEBHOOK_ROUTE}
TOLD_BY_STEPS = {"POST /api/loop/runs/{runId}/result", "POST /api/loop/runs/{runId}/heartbeat"}
APPROVE = {"POST /api/loop/issues/{issueId}/approvals"}
OPERATE = {
    "POST /api/loop/issues/{issueId}/hold",
    "POST /api/loop/issues/{issueId}/resume",
    "POST /api/loop/issues/{issueId}/state",
    "POST /api/loop/runs/{runId}/cancel",
}
RUN = {
    "POST /api/loop/issues/{issueId}/run-next-step",
    "PUT /api/loop/issues/{issueId}",
    "PATCH /api/loop/issues/{issueId}",
}
API: dict[str, Api] = {
    "LoopApiFunction": loop_api.api,
    "RunNextStepFunction": run_next_step.api,
    "GithubWebhookFunction": github_webhook.api,
}


def routes(deployment: Deployment) -> dict[str, Any]:
    """The routes of the API by key."""
    found = deployment.of("AWS::ApiGatewayV2::Route")
    keyed = {route["RouteKey"]: route for route in found.values()}
    assert len(keyed) == len(found)
    return keyed


def missing(deployment: Deployment) -> set[str]:
    """The route that there is not, where no secret is given."""
    return set() if OUTSIDE & deployment.resources.keys() else {WEBHOOK_ROUTE}


def function_of(deployment: Deployment, route: dict[str, Any]) -> str:
    integration = deployment.text(route["Target"]).removeprefix("integrations/")
    return str(deployment[integration]["IntegrationUri"]["Fn::GetAtt"][0])


def test_each_operation_of_the_contract_is_a_route_and_each_route_an_operation(deployment: Deployment) -> None:
    assert set(routes(deployment)) - {"$default"} == OPERATIONS - missing(deployment)


def test_each_route_is_wired_to_the_function_that_serves_it(deployment: Deployment) -> None:
    served = {
        f"{route.method} {route.path}": name
        for name, api in API.items()
        for route in api.routes
        if route.handler is not None and name in deployment.resources
    }
    wired = {key: function_of(deployment, route) for key, route in routes(deployment).items()}
    assert wired == served | ({"$default": "LoopApiFunction"} if "$default" in wired else {})


def test_api_and_nobody_else_may_invoke_its_functions(deployment: Deployment) -> None:
    permissions = deployment.of("AWS::Lambda::Permission").values()
    allowed = {
        each["FunctionName"]["Ref"]: {**each, "SourceArn": deployment.text(each["SourceArn"])} for each in permissions
    }
    assert set(allowed) == API.keys() & deployment.resources.keys()
    for each in allowed.values():
        assert (each["Action"], each["Principal"]) == ("lambda:InvokeFunction", "apigateway.amazonaws.com")
        assert each["SourceArn"] == "arn:aws:execute-api:us-east-1:123456789012:LoopApi/*"
        assert each["SourceAccount"] == {"Ref": "AWS::AccountId"}


def test_health_the_consoles_files_and_what_github_signs_are_open_and_nothing_else(deployment: Deployment) -> None:
    kinds = {key: route["AuthorizationType"] for key, route in routes(deployment).items()}
    assert {key for key, kind in kinds.items() if kind == "NONE"} == OPEN - missing(deployment)
    opened = {f"{route.method} {route.path}" for api in API.values() for route in api.routes if route.is_open}
    assert opened == OPEN, "what the functions take for open"


def test_without_an_issuer_callers_sign_with_iam() -> None:
    deployment = Deployment(BOUNDARY)
    kinds = {key: route["AuthorizationType"] for key, route in routes(deployment).items() if key not in OPEN}
    assert set(kinds.values()) == {"AWS_IAM"}
    assert not deployment.of("AWS::ApiGatewayV2::Authorizer")
    assert not any("AuthorizerId" in route or "AuthorizationScopes" in route for route in routes(deployment).values())


def test_with_an_issuer_each_route_asks_for_a_token_with_the_scope_of_its_group() -> None:
    deployment = Deployment(TOKENS, {"JwtScopePrefix": "https://loop/"})
    (authorizer,) = deployment.of("AWS::ApiGatewayV2::Authorizer").values()
    assert authorizer["AuthorizerType"] == "JWT"
    assert deployment.text(authorizer["JwtConfiguration"]) == {
        "Issuer": TOKENS["JwtIssuer"],
        "Audience": ["loop", "other"],
    }
    scopes = dict.fromkeys(RUN, "run") | dict.fromkeys(APPROVE, "approve") | dict.fromkeys(OPERATE, "operate")
    for key, route in routes(deployment).items():
        if key in OPEN | TOLD_BY_STEPS:
            continue
        assert route["AuthorizationType"] == "JWT", key
        assert route["AuthorizerId"] == {"Ref": "TokenAuthorizer"}, key
        assert deployment.text(route["AuthorizationScopes"]) == [f"https://loop/{scopes.get(key, 'read')}"], key
        assert key.startswith("GET ") or key == "$default" or key in scopes, "writing needs more than read"


def test_what_github_signs_has_a_rate_of_its_own() -> None:
    """Whoever floods the open route leaves callers theirs; API Gateway wants the route before its settings."""
    stage = Deployment(WEBHOOK)["LoopApiStage"]
    assert stage["RouteSettings"] == {WEBHOOK_ROUTE: {"ThrottlingRateLimit": 50, "ThrottlingBurstLimit": 100}}
    assert "GithubWebhookRoute" in json.dumps(stage["Description"])
    assert "RouteSettings" not in Deployment()["LoopApiStage"]


@pytest.mark.parametrize("callers", [{}, TOKENS])
def test_step_functions_tell_outcomes_with_iam_whoever_the_others_are(callers: dict[str, str]) -> None:
    told = {key: route for key, route in routes(Deployment(callers)).items() if key in TOLD_BY_STEPS}
    assert set(told) == TOLD_BY_STEPS
    for route in told.values():
        assert route["AuthorizationType"] == "AWS_IAM"
        assert "AuthorizerId" not in route


def test_no_page_of_another_origin_may_call_unless_one_is_given(deployment: Deployment) -> None:
    if deployment.text({"Ref": "CorsOrigin"}):
        assert deployment.text(deployment["LoopApi"]["CorsConfiguration"]["AllowOrigins"]) == [ORIGIN["CorsOrigin"]]
        assert "AllowCredentials" not in deployment["LoopApi"]["CorsConfiguration"]
        assert "$default" not in routes(deployment), "it would answer the browser's question, and with 401"
    else:
        assert "CorsConfiguration" not in deployment["LoopApi"]
        assert routes(deployment)["$default"]["AuthorizationType"] in {"AWS_IAM", "JWT"}


def test_browser_may_send_and_read_the_headers_of_the_contract() -> None:
    cors = Deployment(ORIGIN)["LoopApi"]["CorsConfiguration"]
    taken, told = set(), set()
    for path, item in DOCUMENT["paths"].items():
        for operation in item.values() if path != "/api/github/webhook" else ():  # GitHub is no browser
            parameters = [resolved(parameter) for parameter in operation.get("parameters", [])]
            taken |= {each["name"].lower() for each in parameters if each["in"] == "header"}
            for answer in operation["responses"].values():
                told |= {name.lower() for name in answer.get("headers", {})}
    assert taken - {"x-afu9-sub"} <= set(cors["AllowHeaders"]), "a person is named by a front end's server only"
    assert told <= set(cors["ExposeHeaders"])
    assert {"authorization", "content-type"} <= set(cors["AllowHeaders"])
    assert set(cors["AllowMethods"]) == {key.split(" ")[0] for key in OPERATIONS}


def resolved(parameter: dict[str, Any]) -> dict[str, Any]:
    """A parameter of the document, or what it refers to."""
    name = str(parameter.get("$ref", "")).rpartition("/")[2]
    return dict(DOCUMENT["components"]["parameters"][name]) if name else parameter


def test_calls_are_throttled_and_logged_without_what_callers_send(deployment: Deployment) -> None:
    stage = deployment["LoopApiStage"]
    assert deployment.text(stage["DefaultRouteSettings"]) == {"ThrottlingRateLimit": 100, "ThrottlingBurstLimit": 200}
    log = stage["AccessLogSettings"]
    assert (
        deployment.text(log["DestinationArn"]) == "arn:aws:logs:us-east-1:123456789012:log-group:loop-runner-LogGroup-1"
    )
    line = json.loads(log["Format"])
    assert "\n" not in log["Format"]
    assert all(re.fullmatch(r"\$context\.[\w.]+", value) for name, value in line.items() if name != "service")
    said = " ".join(line.values()).lower()
    for unsaid in ("querystring", "path", "body", "authorizer.claims ", "useragent", "header"):
        assert unsaid not in said


def test_readme_tells_the_defaults_of_the_parameters() -> None:
    readme = (ROOT / "README.md").read_text()
    defaults = {name: str(parameter["Default"]) for name, parameter in SOURCE["Parameters"].items()}
    rows = re.findall(r"^\| ([\w, ]+) \| ([^|]*) \|", readme.partition("## Parameters and settings")[2], re.MULTILINE)
    for names, told in rows:
        for name in names.split(", "):
            if defaults.get(name):
                assert defaults[name] in told, name
