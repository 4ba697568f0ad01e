"""What functions get is what they read, and the time that they have fits what calls them."""

from __future__ import annotations

import re
from collections import UserDict
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import pytest
from psycopg.conninfo import conninfo_to_dict

from github_steps.settings import GithubSettings
from loop_runner.loops import API_STEP_SECONDS, LambdaExecutor, load_loop
from loop_runner.rds_token import with_token
from loop_runner.settings import Settings
from tests.conftest import LOOPS, ROOT
from tests.template.deployment import (
    GITHUB,
    GIVEN_DATABASE,
    GIVEN_VPC,
    KEY,
    OUTSIDE,
    PROXY,
    RESERVED,
    RESERVED_TOO,
    WEBHOOK,
    Deployment,
    refusals,
    translated,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

FOLDERS = {  # of those that work on the ledger
    "RunNextStepFunction": "run_next_step",
    "LoopApiFunction": "loop_api",
    "RunWorkerFunction": "run_worker",
    "RunSweeperFunction": "run_sweeper",
    "MigrateFunction": "migrate",
}
OF_POWERTOOLS = {"POWERTOOLS_METRICS_NAMESPACE", "POWERTOOLS_SERVICE_NAME"}
LOCAL_ONLY = {"TRUST_ACTOR_HEADER"}
OF_EACH_CONNECTION = {"database_url", "signs_in_with_iam"}
"""Settings that the settings' own url_to_connect reads."""
LAMBDA = {
    "AWS_ACCESS_KEY_ID": "ASIA",
    "AWS_SECRET_ACCESS_KEY": "secret",
    "AWS_SESSION_TOKEN": "token",
    "AWS_REGION": "us-east-1",
    "AWS_LAMBDA_LOG_GROUP_NAME": "group",
}
"""What Lambda gives each function by itself."""


class Watched(UserDict[str, str]):
    """An environment that knows what was asked of it."""

    def __init__(self, variables: Mapping[str, str]) -> None:
        super().__init__(variables)
        self.asked: set[str] = set()

    def get(self, key: str, default: Any = None) -> Any:
        self.asked.add(key)
        return super().get(key, default)


def variables(deployment: Deployment, function: str) -> dict[str, str]:
    given: dict[str, str] = deployment.text(deployment[function]["Environment"]["Variables"])
    return given


def read() -> set[str]:
    """The variables that the settings are made of, and those of Powertools."""
    environment = Watched({"DATABASE_URL": "postgresql://x"})
    Settings.from_environment(environment)
    return environment.asked | OF_POWERTOOLS


def test_each_variable_that_is_read_is_set_and_each_that_is_set_is_read(deployment: Deployment) -> None:
    made = bool(deployment.of("AWS::RDS::DBCluster"))
    expected = read() - LAMBDA.keys() - LOCAL_ONLY - (set() if made else {"MASTER_SECRET_ARN"})
    assert set().union(*(variables(deployment, function) for function in FOLDERS)) == expected


def test_what_is_for_the_local_stack_only_is_set_nowhere(deployment: Deployment) -> None:
    for function in FOLDERS:
        assert not LOCAL_ONLY & variables(deployment, function).keys()


@pytest.mark.parametrize("field", [field.name for field in fields(Settings)])
def test_a_setting_that_one_function_reads_is_set_there_and_one_of_all_is_set_everywhere(field: str) -> None:
    def is_read(folder: str) -> bool:
        texts = [path.read_text() for path in (ROOT / folder).glob("*.py") if path.name != "settings.py"]
        return any(re.search(rf"\.{field}\b", text) for text in texts)

    plain = Settings.from_environment({"DATABASE_URL": "x"})
    changed = {
        name: Settings.from_environment({"DATABASE_URL": "x", name: "iam" if name == "DATABASE_AUTH" else "1"})
        for name in read() - OF_POWERTOOLS
    }
    (variable,) = (name for name, settings in changed.items() if getattr(settings, field) != getattr(plain, field))
    if variable in LAMBDA.keys() | LOCAL_ONLY:
        return
    by_layer = is_read("layers/loop_runner/loop_runner") or field in OF_EACH_CONNECTION
    readers = {name for name, folder in FOLDERS.items() if by_layer or is_read(f"functions/{folder}")}
    assert readers, "nobody reads it"
    assert {name for name in FOLDERS if variable in variables(Deployment(), name)} == readers


def test_settings_of_each_function_are_whole(deployment: Deployment) -> None:
    for function in FOLDERS:
        settings = Settings.from_environment({**LAMBDA, **variables(deployment, function)})
        assert settings.signs_in_with_iam
        assert settings.run_queue_url.startswith("https://")
        assert settings.step_function_prefix == "loop-step-"
        assert {str(path).split("/")[1] for path in (settings.loops_dir, settings.migrations_dir)} == {"opt"}
        assert not settings.trust_actor_header


@pytest.mark.parametrize(
    ("shape", "host", "writer"),
    [
        ((), "DatabaseCluster.Endpoint.Address", "DatabaseCluster.Endpoint.Address"),
        ((PROXY,), "DatabaseProxy.Endpoint", "DatabaseCluster.Endpoint.Address"),
        ((GIVEN_VPC, GIVEN_DATABASE, {"DatabasePort": "6543"}), *[GIVEN_DATABASE["DatabaseHost"]] * 2),
    ],
)
def test_functions_connect_with_a_token_to_a_verified_host_and_migrate_to_the_writer(
    shape: tuple[dict[str, str], ...], host: str, writer: str
) -> None:
    deployment = Deployment(*shape, {"DatabaseName": "ledger"})
    for function in FOLDERS:
        url = variables(deployment, function)["DATABASE_URL"]
        parts = conninfo_to_dict(url)
        is_migrate = function == "MigrateFunction"
        assert (parts["host"], parts["user"]) == ((writer, "loop_owner") if is_migrate else (host, "loop_app"))
        assert (parts["port"], parts["dbname"]) == (str(deployment.text({"Ref": "DatabasePort"})), "ledger")
        assert (parts["sslmode"], parts["sslrootcert"]) == ("verify-full", "/opt/certs/rds.pem")
        assert "password" not in parts
        assert "options" not in parts, "RDS Proxy refuses them"
        assert with_token(url, LAMBDA), "may be signed"


def test_step_function_github_gets_what_it_reads_and_nothing_of_the_database() -> None:
    given = variables(Deployment(GITHUB), "GithubStepsFunction")
    environment = Watched(given)
    read_settings = GithubSettings.from_environment(environment)
    assert given.keys() == environment.asked | OF_POWERTOOLS
    assert read_settings.secret_arn == GITHUB["GithubSecretArn"]
    assert read_settings.repositories == {"acme/shop", "tools/*"}
    assert (read_settings.api_url, read_settings.merge_method, read_settings.environment) == (
        "https://api.github.com",
        "squash",
        "production",
    )


def test_step_function_github_is_there_where_its_secret_is_and_only_for_listed_repositories() -> None:
    assert "GithubStepsFunction" not in Deployment().resources
    without = {"GithubSecretArn": GITHUB["GithubSecretArn"]}
    assert any("GithubRepositories" in refusal for refusal in refusals(without))


@pytest.mark.parametrize("prefix", ["loop-step-", "mine-"])
def test_step_function_github_has_the_name_that_the_loop_invokes_and_less_time_than_its_steps(prefix: str) -> None:
    deployment = Deployment(GITHUB, {"StepFunctionPrefix": prefix})
    function = deployment["GithubStepsFunction"]
    steps = [step for step in load_loop(LOOPS / "github-delivery.toml").steps if step.executor.kind == "lambda"]
    assert {step.executor.function for step in steps if isinstance(step.executor, LambdaExecutor)} == {"github"}
    assert deployment.text(function["FunctionName"]) == f"{prefix}github"
    assert "VpcConfig" not in function
    for step in steps:
        assert function["Timeout"] < step.timeout <= API_STEP_SECONDS


def test_roots_lie_where_the_url_says() -> None:
    url = variables(Deployment(), "LoopApiFunction")["DATABASE_URL"]
    in_layer = str(conninfo_to_dict(url)["sslrootcert"]).removeprefix("/opt/")
    assert (ROOT / "layers/loop_runner" / in_layer).is_file()
    (copied,) = re.findall(r"^\tcp -R (loops .*) ", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert f"layers/loop_runner/{in_layer.partition('/')[0]}" in copied.split()


def test_master_secret_goes_to_migrate_alone_and_where_the_stack_made_the_database(deployment: Deployment) -> None:
    having = {function for function in FOLDERS if "MASTER_SECRET_ARN" in variables(deployment, function)}
    assert having == ({"MigrateFunction"} if deployment.of("AWS::RDS::DBCluster") else set())


def test_each_function_has_time_that_fits_its_trigger(deployment: Deployment) -> None:
    timeout = {function: deployment[function]["Timeout"] for function in FOLDERS}
    assert timeout["RunNextStepFunction"] == timeout["LoopApiFunction"] == 29, "API Gateway gives up after 30 s"
    assert deployment["RunQueue"]["VisibilityTimeout"] >= 6 * timeout["RunWorkerFunction"]
    assert timeout["RunSweeperFunction"] < 60, "the next one begins a minute later"
    assert timeout["MigrateFunction"] == 900
    assert timeout["MigrateFunction"] < deployment["Migrations"]["ServiceTimeout"] <= 3600


def test_one_message_at_a_time_and_each_fails_alone(deployment: Deployment) -> None:
    (mapping,) = deployment.of("AWS::Lambda::EventSourceMapping").values()
    assert (mapping["BatchSize"], mapping["FunctionResponseTypes"]) == (1, ["ReportBatchItemFailures"])
    assert deployment.text(mapping["ScalingConfig"]) == {"MaximumConcurrency": 10}
    assert deployment["RunQueue"]["RedrivePolicy"]["maxReceiveCount"] == 5
    assert deployment["RunDeadLetters"]["MessageRetentionPeriod"] == 14 * 24 * 3600


def test_sweeper_is_not_tried_again_by_itself_and_two_stacks_have_two_schedules(deployment: Deployment) -> None:
    (schedule,) = deployment.of("AWS::Scheduler::Schedule").values()
    assert deployment.text(schedule["ScheduleExpression"]) == "rate(1 minute)"
    assert schedule["Target"]["RetryPolicy"] == {"MaximumRetryAttempts": 0}
    assert "Name" not in schedule
    (config,) = deployment.of("AWS::Lambda::EventInvokeConfig").values()
    assert (config["FunctionName"], config["MaximumRetryAttempts"]) == ({"Ref": "RunSweeperFunction"}, 0)


def test_concurrency_is_reserved_where_a_number_is_given_and_nowhere_else() -> None:
    plain, reserved = Deployment(), Deployment(RESERVED, RESERVED_TOO)
    for function in FOLDERS:
        assert "ReservedConcurrentExecutions" not in plain[function]
        given = reserved.text(reserved[function].get("ReservedConcurrentExecutions"))
        assert given == ("5" if function in {"RunNextStepFunction", "LoopApiFunction"} else None)


def test_migrations_are_applied_again_when_the_layer_has_other_content_and_before_the_functions() -> None:
    def release(content: str) -> tuple[str, dict[str, Any]]:
        resources = translated(content)["Resources"]
        name = resources["Migrations"]["Properties"]["Release"]["Ref"]
        return name, resources[name]

    (one, layer), (other, _) = release("s3://bucket/one"), release("s3://bucket/other")
    assert one != other, "another logical id is another version, with an ARN of its own"
    assert release("s3://bucket/one")[0] == one
    assert layer["Type"] == "AWS::Lambda::LayerVersion"
    resources = translated()["Resources"]
    waiting = {name for name, each in resources.items() if each.get("DependsOn") == "Migrations"}
    assert waiting == FOLDERS.keys() - {"MigrateFunction"}


def test_answer_to_cloudformation_has_its_way_until_the_stack_is_gone(deployment: Deployment) -> None:
    """What the custom resource refers to is made before it and deleted after it."""
    needed = {"SubnetARoutes", "SubnetBRoutes", "S3Endpoint", "SecretsManagerVpcEndpoint", "DatabaseWriter",
              "FunctionsToDatabase", "FunctionsToGivenDatabase"}  # fmt: skip
    assert {each["Ref"] for each in deployment["Migrations"]["After"]} == needed & deployment.resources.keys()


def test_environment_is_encrypted_with_the_users_key_where_there_is_one() -> None:
    for function in FOLDERS.keys() | OUTSIDE:
        assert "KmsKeyArn" not in Deployment(GITHUB, WEBHOOK)[function]
        assert Deployment(GITHUB, WEBHOOK, KEY)[function]["KmsKeyArn"] == {"Ref": "KmsKeyArn"}


def test_function_of_the_webhook_knows_its_secret_and_the_queue_and_no_database() -> None:
    deployment = Deployment(WEBHOOK)
    assert variables(deployment, "GithubWebhookFunction") == {
        "GITHUB_WEBHOOK_SECRET_ARN": WEBHOOK["GithubWebhookSecretArn"],
        "RUN_QUEUE_URL": deployment.text({"Ref": "RunQueue"}),
        "POWERTOOLS_METRICS_NAMESPACE": "LoopRunner/local",
        "POWERTOOLS_SERVICE_NAME": "github-webhook",
    }
    assert deployment["GithubWebhookFunction"]["Timeout"] < 10, "GitHub waits no longer"
    assert not {name for name in Deployment().resources if "Webhook" in name}
