"""What the environment says about GitHub becomes secrets and parameters of the template; functions see none of it."""

from __future__ import annotations

from tools.local.intrinsics import secret_arn
from tools.local.settings import ROOT, LocalSettings, functions_environment
from tools.local.template import load_functions

GIVEN = {
    "GITHUB_TOKEN": "ghp_1",
    "GITHUB_API_URL": "http://127.0.0.1:3100",
    "GITHUB_ENVIRONMENT": "staging",
    "GITHUB_MERGE_METHOD": "rebase",
    "GITHUB_REPOSITORIES": "acme/shop",
}


def test_token_is_a_secret_and_the_rest_parameters() -> None:
    settings = LocalSettings.from_environment(GIVEN, ROOT)
    assert settings.secrets == {"GITHUB_TOKEN": "ghp_1"}
    (function,) = (
        each
        for each in load_functions(ROOT / "template.yaml", {**settings.parameters, "StepFunctionPrefix": ""}).values()
        if each.invoked_as == "github"
    )
    assert function.environment == {
        "GITHUB_API_URL": "http://127.0.0.1:3100",
        "GITHUB_ENVIRONMENT": "staging",
        "GITHUB_MERGE_METHOD": "rebase",
        "GITHUB_REPOSITORIES": "acme/shop",
        "GITHUB_SECRET_ARN": secret_arn("GITHUB_TOKEN"),
        "POWERTOOLS_METRICS_NAMESPACE": "LoopRunner/local",
        "POWERTOOLS_SERVICE_NAME": "github",
    }


def test_without_a_token_there_is_no_step_function_github() -> None:
    settings = LocalSettings.from_environment({"GITHUB_TOKEN": "", "GITHUB_REPOSITORIES": "acme/shop"}, ROOT)
    assert settings.secrets == {}
    functions = load_functions(ROOT / "template.yaml", settings.parameters)
    assert "GithubStepsFunction" not in functions


def test_functions_see_none_of_it() -> None:
    assert not GIVEN.keys() & functions_environment(GIVEN, "http://127.0.0.1:1").keys()
