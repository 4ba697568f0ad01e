"""Least privilege: what each role may do, and that it is what its function does: every call of AWS, recorded."""

from __future__ import annotations

import json
import re
from contextlib import closing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import boto3
import pytest
from moto import mock_aws
from psycopg.conninfo import conninfo_to_dict

from functions.github_steps import app as github_steps
from functions.github_webhook import app as github_webhook
from functions.migrate import app as migrate
from functions.run_sweeper import app as run_sweeper
from functions.run_worker import app as run_worker
from github_steps.execution import Access
from loop_runner import aws
from loop_runner.errors import MigrationError
from loop_runner.http import Api
from loop_runner.secret import Secret
from loop_runner.services import Services
from tests.conftest import MIGRATIONS, Client, Context
from tests.sample_events import SECRET, read
from tests.template.deployment import GITHUB, KEY, OUTSIDE, PROXY, SHAPES, WEBHOOK, Deployment

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from loop_runner.settings import Settings
    from tests.conftest import Sql

FUNCTIONS = {"RunNextStepFunction", "LoopApiFunction", "RunWorkerFunction", "RunSweeperFunction", "MigrateFunction"}
NETWORK = {
    "ec2:AssignPrivateIpAddresses",
    "ec2:CreateNetworkInterface",
    "ec2:DeleteNetworkInterface",
    "ec2:DescribeNetworkInterfaces",
    "ec2:DescribeSubnets",
    "ec2:UnassignPrivateIpAddresses",
}
"""What Lambda does as the role of a function in a VPC, in its own words ("AWSLambdaVPCAccessExecutionRole")."""

LOG = {"logs:CreateLogStream", "logs:PutLogEvents"}
LAMBDA = "arn:aws:lambda:us-east-1:123456789012:function:"


class Right(NamedTuple):
    """That something may be done to something."""

    action: str
    resource: str


@dataclass
class Role:
    """What a role of a deployment says."""

    trusts: dict[str, Any]
    allows: set[Right]
    denies: list[dict[str, Any]]
    boundary: object

    def may(self, action: str, resource: str) -> bool:
        return any(
            each.action == action and re.fullmatch(re.escape(each.resource).replace(r"\*", ".*"), resource)
            for each in self.allows
        )

    def actions(self) -> set[str]:
        return {each.action for each in self.allows}

    def of(self, action: str) -> set[str]:
        """The resources of an action."""
        return {each.resource for each in self.allows if each.action == action}


def roles(deployment: Deployment) -> dict[str, Role]:
    """By logical id."""
    return {name: role(deployment, properties) for name, properties in deployment.of("AWS::IAM::Role").items()}


def role(deployment: Deployment, properties: dict[str, Any]) -> Role:
    documents = [policy["PolicyDocument"] for policy in properties.get("Policies", [])]
    documents += [deployment[each["Ref"]]["PolicyDocument"] for each in properties.get("ManagedPolicyArns", [])]
    statements = [statement for document in documents for statement in document["Statement"]]
    (trust,) = properties["AssumeRolePolicyDocument"]["Statement"]
    return Role(
        trusts=deployment.text(trust),
        allows={
            Right(action, resource)
            for statement in statements
            if statement["Effect"] == "Allow"
            for action in listed(statement["Action"])
            for resource in listed(deployment.text(statement["Resource"]))
        },
        denies=[deployment.text(statement) for statement in statements if statement["Effect"] == "Deny"],
        boundary=properties.get("PermissionsBoundary"),
    )


def listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def role_of(deployment: Deployment, function: str) -> Role:
    return roles(deployment)[deployment[function]["Role"]["Fn::GetAtt"][0]]


def functions(deployment: Deployment) -> dict[str, Role]:
    return {name: role_of(deployment, name) for name in deployment.of("AWS::Lambda::Function")}


def test_each_function_has_a_role_of_its_own_that_lambda_alone_takes_on(deployment: Deployment) -> None:
    names = [each["Role"]["Fn::GetAtt"][0] for each in deployment.of("AWS::Lambda::Function").values()]
    assert len(set(names)) == len(names) == len(FUNCTIONS | OUTSIDE & deployment.resources.keys())
    for each in functions(deployment).values():
        assert each.trusts == {
            "Effect": "Allow",
            "Principal": {"Service": "lambda.amazonaws.com"},
            "Action": "sts:AssumeRole",
        }


def test_no_action_is_a_pattern_and_no_resource_but_that_of_network_interfaces(deployment: Deployment) -> None:
    for name, each in roles(deployment).items():
        for action, resource in each.allows:
            assert re.fullmatch(r"[a-z0-9-]+:[A-Za-z]+", action), (name, action)
            if action in NETWORK:
                assert resource == "*"
            else:
                assert re.fullmatch(r"arn:aws:[a-z-]+:us-east-1:123456789012:[^*]+\*?", resource), (name, resource)


def test_network_interfaces_are_lambdas_to_make_and_not_the_codes(deployment: Deployment) -> None:
    for name, each in functions(deployment).items():
        if name in OUTSIDE:
            assert (each.denies, NETWORK & each.actions()) == ([], set()), "it is in no VPC"
            continue
        (denial,) = each.denies
        assert set(denial["Action"]) == NETWORK == {right.action for right in each.allows if right.resource == "*"}
        assert denial["Resource"] == "*"
        assert denial["Condition"] == {
            "ArnLike": {"lambda:SourceFunctionArn": "arn:aws:lambda:us-east-1:123456789012:function:*"}
        }


def test_each_function_writes_into_the_one_log_group(deployment: Deployment) -> None:
    for name, each in functions(deployment).items():
        for action in LOG:
            assert each.of(action) == {"arn:aws:logs:us-east-1:123456789012:log-group:loop-runner-LogGroup-1:*"}
        assert deployment[name]["LoggingConfig"]["LogGroup"] == {"Ref": "LogGroup"}


def test_each_function_connects_as_one_user_of_one_database_the_one_of_its_url(deployment: Deployment) -> None:
    proxied = deployment.of("AWS::RDS::DBProxy")
    database = "cluster-MADE" if deployment.of("AWS::RDS::DBCluster") else "cluster-GIVEN"
    for name, each in functions(deployment).items():
        if name in OUTSIDE:
            assert not each.of("rds-db:connect")
            continue
        url = conninfo_to_dict(deployment.text(deployment[name]["Environment"]["Variables"]["DATABASE_URL"]))
        user = "loop_owner" if name == "MigrateFunction" else "loop_app"
        resource = "prx-MADE" if proxied and user == "loop_app" else database
        assert url["user"] == user
        assert each.of("rds-db:connect") == {f"arn:aws:rds-db:us-east-1:123456789012:dbuser:{resource}/{user}"}


def test_proxy_connects_as_the_functions_user_and_no_other() -> None:
    proxy = roles(Deployment(PROXY))["ProxyRole"]
    assert proxy.allows == {
        Right("rds-db:connect", "arn:aws:rds-db:us-east-1:123456789012:dbuser:cluster-MADE/loop_app")
    }
    assert proxy.trusts == {
        "Effect": "Allow",
        "Principal": {"Service": "rds.amazonaws.com"},
        "Action": "sts:AssumeRole",
    }, "RDS's guide has no condition that it would meet"


@pytest.mark.parametrize("prefix", ["loop-step-", "mine-"])
def test_functions_that_run_steps_invoke_those_of_the_prefix_and_the_others_none(prefix: str) -> None:
    for name, each in functions(Deployment({"StepFunctionPrefix": prefix})).items():
        invoked = each.of("lambda:InvokeFunction")
        if name in {"RunNextStepFunction", "RunWorkerFunction"}:
            assert invoked == {f"arn:aws:lambda:us-east-1:123456789012:function:{prefix}*"}
        else:
            assert invoked == set()


def test_each_role_is_bounded_where_a_boundary_is_given(deployment: Deployment) -> None:
    given = deployment.text({"Ref": "PermissionsBoundaryArn"})
    for each in roles(deployment).values():
        assert each.boundary == ({"Ref": "PermissionsBoundaryArn"} if given else None)


def test_schedule_may_invoke_the_sweeper() -> None:
    schedule = roles(Deployment())["SweepScheduleRole"]
    assert schedule.allows == {
        Right("lambda:InvokeFunction", "arn:aws:lambda:us-east-1:123456789012:function:RunSweeperFunction")
    }
    assert schedule.trusts["Condition"] == {"StringEquals": {"aws:SourceAccount": "123456789012"}}


def test_key_of_the_users_own_may_be_used_by_those_who_read_and_send_and_no_other_right_is_added() -> None:
    plain, keyed = functions(Deployment(GITHUB, WEBHOOK)), functions(Deployment(GITHUB, WEBHOOK, KEY))
    for name, each in keyed.items():
        added = each.allows - plain[name].allows
        actions = (
            {"kms:Decrypt"}
            if name in {"MigrateFunction", "GithubStepsFunction"}
            else {"kms:Decrypt", "kms:GenerateDataKey"}
        )
        assert added == {Right(action, KEY["KmsKeyArn"]) for action in actions}


# --- what the functions do


ACTIONS = {
    ("sqs", "SendMessageBatch"): "sqs:SendMessage",  # "Actions, resources, and condition keys for Amazon SQS"
    ("lambda", "Invoke"): "lambda:InvokeFunction",
    ("secretsmanager", "GetSecretValue"): "secretsmanager:GetSecretValue",
}
"""The action that a call needs."""


class Called(NamedTuple):
    """A call of AWS, as the action that it needs and what it is done to."""

    action: str
    resource: str


LOOP = """
name = "work"
initial_state = "OPEN"
completed_states = ["DONE"]
[[steps]]
number = 1
type = "WORK"
from = ["OPEN"]
to = "ASKED"
executor = { kind = "lambda", function = "work" }
[[steps.retry]]
ErrorEquals = ["InvalidStepResult"]
IntervalSeconds = 1
MaxAttempts = 3
[[steps]]
number = 2
type = "ASK"
from = ["ASKED"]
to = "DONE"
executor = { kind = "callback", function = "work" }
[[steps.retry]]
ErrorEquals = ["Busy"]
IntervalSeconds = 1
MaxAttempts = 3
"""


class Stage:
    """The functions, a database, and an account of moto's with what a deployment has; ``called`` is recorded."""

    def __init__(self, settings: Settings, folder: Path, sql: Sql, monkeypatch: pytest.MonkeyPatch) -> None:
        (folder / "work.toml").write_text(LOOP)
        queue_url = boto3.client("sqs").create_queue(QueueName="RunQueue")["QueueUrl"]
        role = boto3.client("iam").create_role(RoleName="step", AssumeRolePolicyDocument="{}")["Role"]["Arn"]
        code = {"Runtime": "python3.13", "Handler": "app.handler", "Code": {"ZipFile": b"x"}}
        boto3.client("lambda").create_function(FunctionName="loop-step-work", Role=role, **code)
        self.services = Services(
            replace(settings, loops_dir=folder, run_queue_url=queue_url, step_function_prefix="loop-step-")
        )
        boto3.client("secretsmanager").create_secret(Name=WEBHOOK["GithubWebhookSecretArn"], SecretString=SECRET)
        self.client, self.sql, self.monkeypatch = Client(self.services), sql, monkeypatch
        self.called: set[Called] = set()
        boto3.setup_default_session()
        assert boto3.DEFAULT_SESSION is not None
        boto3.DEFAULT_SESSION.events.register("before-parameter-build.*.*", self._record)

    def _record(self, params: Mapping[str, Any], model: Any, **_: object) -> None:
        """A call that a client of boto3 is about to make, whoever made the client."""
        action = ACTIONS[model.service_model.service_name, model.name]
        target = next(params[name] for name in ("QueueUrl", "FunctionName", "SecretId") if name in params)
        arns = {"sqs:SendMessage": "arn:aws:sqs:us-east-1:123456789012:", "lambda:InvokeFunction": LAMBDA}
        self.called.add(Called(action, f"{arns.get(action, '')}{target.rpartition('/')[2]}"))

    def register(self, state: str = "OPEN") -> None:
        """An issue to start from; what was called until then is forgotten."""
        self.sql("TRUNCATE loop_events, loop_run_steps, loop_runs, loop_issues")
        assert self.client("PUT", "/api/loop/issues/A-1", {"loop": "work"}).status == 201
        if state != "OPEN":
            self.client("POST", "/api/loop/issues/A-1/state", {"state": state, "reason": "test"})
        self.called.clear()

    def queue(self) -> dict[str, str]:
        """A run in the background, as the message that begins it; what was called until then is forgotten."""
        self.register()
        answer = self.client.run("A-1", headers={"Prefer": "respond-async"})
        self.called.clear()
        return {"issueId": "A-1", "runId": answer.json["runId"]}


@pytest.fixture
def stage(settings: Settings, tmp_path: Path, sql: Sql, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)
    aws.client.cache_clear()
    with mock_aws(config={"lambda": {"use_docker": False}}):
        stage = Stage(settings, tmp_path, sql, monkeypatch)
        with closing(stage.services.database):
            yield stage
    aws.client.cache_clear()


def run_a_step_that_fails_and_is_tried_again(on: Stage) -> None:
    on.register()
    assert "retryAt" in on.client.run("A-1").json["error"]


def hand_a_step_over(on: Stage) -> None:
    on.register("ASKED")
    assert on.client.run("A-1").json["stepExecuted"]["status"] == "running"


def queue_a_run(on: Stage) -> None:
    on.register()
    assert on.client.run("A-1", headers={"Prefer": "respond-async"}).status == 202


def tell_of_a_failure_that_is_tried_again(on: Stage) -> None:
    on.register("ASKED")
    on.monkeypatch.setattr("secrets.token_urlsafe", lambda _: "token")
    run_id = on.client.run("A-1").json["runId"]
    on.called.clear()
    told = {"taskToken": "token", "status": "failed", "error": {"name": "Busy", "message": "later"}}
    answer = on.client("POST", f"/api/loop/runs/{run_id}/result", told)
    assert answer.json["retryAt"], answer.text


def work_on_a_queued_run(on: Stage) -> None:
    record = {"messageId": "1", "body": json.dumps(on.queue())}
    on.monkeypatch.setattr(run_worker, "services", lambda: on.services)
    assert run_worker.handler({"Records": [record]}, Context()) == {"batchItemFailures": []}  # type: ignore[arg-type]


def sweep_a_lost_message(on: Stage) -> None:
    on.queue()
    on.sql("UPDATE loop_runs SET sent_at = now() - interval '5 minutes'")
    on.monkeypatch.setattr(run_sweeper, "services", lambda: on.services)
    run_sweeper.handler({}, Context())  # type: ignore[arg-type]


def take_a_delivery(on: Stage) -> None:
    secret_id = WEBHOOK["GithubWebhookSecretArn"]
    on.monkeypatch.setattr(github_webhook, "secret", lambda: Secret(secret_id))
    on.called.clear()
    api = Api(lambda: on.services)
    api.routes = github_webhook.api.routes
    answer = api.handle(read("github-webhook-take-delivery.json"), Context())  # type: ignore[arg-type]
    assert answer["statusCode"] == 202, answer


def make_roles_and_apply(on: Stage) -> None:
    arn = Deployment()["MigrateFunction"]["Environment"]["Variables"]["MASTER_SECRET_ARN"]
    on.monkeypatch.setenv("DATABASE_URL", on.services.settings.database_url)
    on.monkeypatch.setenv("MIGRATIONS_DIR", str(MIGRATIONS))
    on.monkeypatch.setenv("MASTER_SECRET_ARN", Deployment().text(arn))
    on.called.clear()
    with pytest.raises(MigrationError, match="permission denied"):  # the role of this test owns nothing
        migrate.handler({"action": "apply"}, Context())  # type: ignore[arg-type]
    migrate.handler({"action": "plan"}, Context())  # type: ignore[arg-type]


def sign_in_on_github(on: Stage) -> None:
    """As far as that goes without GitHub."""
    arn = boto3.Session().client("secretsmanager").create_secret(Name="github", SecretString="token")["ARN"]
    on.monkeypatch.setenv("GITHUB_SECRET_ARN", arn)
    on.monkeypatch.setenv("GITHUB_API_URL", "http://127.0.0.1:1")
    on.monkeypatch.setenv("GITHUB_REPOSITORIES", "acme/shop")
    on.monkeypatch.setattr(github_steps, "access", Access.from_environment)
    facts = {"prUrl": "http://127.0.0.1:1/acme/shop/pull/1"}
    event = {"issueId": "A-1", "runId": "", "requestId": "", "step": {"type": "S4_REVIEW"}, "facts": facts}
    assert github_steps.handler(event, Context())["error"]["name"] == "GitHub.Unreachable"  # type: ignore[arg-type]
    on.called = {Called(each.action, GITHUB["GithubSecretArn"]) for each in on.called if each.resource == arn}


DOES: dict[str, list[Callable[[Stage], None]]] = {
    "RunNextStepFunction": [run_a_step_that_fails_and_is_tried_again, hand_a_step_over, queue_a_run],
    "LoopApiFunction": [tell_of_a_failure_that_is_tried_again],
    "RunWorkerFunction": [work_on_a_queued_run],
    "RunSweeperFunction": [sweep_a_lost_message],
    "MigrateFunction": [make_roles_and_apply],
    "GithubWebhookFunction": [take_a_delivery],
    "GithubStepsFunction": [sign_in_on_github],
}
POLLING = {"sqs:ReceiveMessage", "sqs:DeleteMessage", "sqs:GetQueueAttributes"}
"""Lambda takes messages from the queue as the function's role."""


@pytest.mark.parametrize("function", sorted(DOES))
def test_what_a_function_calls_its_role_allows_and_nothing_else(function: str, stage: Stage) -> None:
    called: set[Called] = set()
    for does in DOES[function]:
        does(stage)
        called |= stage.called
    for name, shape in SHAPES.items():
        deployment = Deployment(*shape, GITHUB, WEBHOOK)
        role = role_of(deployment, function)
        if function != "MigrateFunction" or deployment.of("AWS::RDS::DBCluster"):  # another one has no secret
            assert {call for call in called if not role.may(*call)} == set(), name
    infrastructure = NETWORK | LOG | {"rds-db:connect"} | (POLLING if function == "RunWorkerFunction" else set())
    infrastructure = LOG if function in OUTSIDE else infrastructure
    assert role_of(Deployment(GITHUB, WEBHOOK), function).actions() == {call.action for call in called} | infrastructure


def test_worker_takes_messages_from_its_queue_alone(deployment: Deployment) -> None:
    for name, each in functions(deployment).items():
        expected = {"arn:aws:sqs:us-east-1:123456789012:RunQueue"} if name == "RunWorkerFunction" else set()
        for action in POLLING:
            assert each.of(action) == expected
