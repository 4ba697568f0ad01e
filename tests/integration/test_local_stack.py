"""The stack with real processes, a real server and real clients: the HTTP API, Lambda's Invoke call, the commands."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import boto3
import psycopg
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from tests.conftest import assert_sound
from tools.local import gateway
from tools.local.client import request
from tools.local.settings import SettingsError
from tools.local.stack import Stack, StackError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).parents[2]

TEMPLATE = """
Globals:
  Function:
    Handler: app.handler
    CodeUri: code
    Environment: {Variables: {DATABASE_URL: postgresql://deployed}}
Resources:
  MigrateFunction: {Type: AWS::Serverless::Function, Properties: {CodeUri: migrate}}
  EchoFunction: {Type: AWS::Serverless::Function, Properties: {Timeout: 20}}
  OtherFunction: {Type: AWS::Serverless::Function, Properties: {Timeout: 20}}
  Echo: {Type: AWS::ApiGatewayV2::Integration, Properties: {IntegrationUri: !GetAtt EchoFunction.Arn}}
  Other: {Type: AWS::ApiGatewayV2::Integration, Properties: {IntegrationUri: !GetAtt OtherFunction.Arn}}
  Named:
    Type: AWS::ApiGatewayV2::Route
    Properties: {RouteKey: "ANY /echo/{name}", Target: !Sub "integrations/${Echo}"}
  Default: {Type: AWS::ApiGatewayV2::Route, Properties: {RouteKey: $default, Target: !Sub "integrations/${Echo}"}}
  Status: {Type: AWS::ApiGatewayV2::Route, Properties: {RouteKey: POST /status, Target: !Sub "integrations/${Other}"}}
"""

CODE = """
    import base64, json, os, time
    from pathlib import Path

    def handler(event, context):
        if "version" not in event:  # Invoke
            if event.get("raise"):
                raise ValueError(event["raise"])
            if event.get("touch"):
                Path(event["touch"]).touch()
            return {"got": event, "environment": dict(os.environ)}
        match event["rawPath"]:
            case "/status" if event["routeKey"] == "POST /status":
                return json.loads(event["body"])
            case "/echo/sleep":
                time.sleep(60)
            case "/echo/raise":
                raise ValueError
            case "/echo/plain":
                return {"plain": True}
            case _:
                body = json.dumps({"event": event, "function": context.function_name})
                return {"statusCode": 200, "headers": {"content-type": "application/json"}, "body": body}
"""

MIGRATE = """
    import os

    def handler(event, context):
        assert event == {"action": "apply"}
        if "refuse" in os.environ["DATABASE_URL"]:
            raise RuntimeError("084 was changed after it was applied")
        return {"applied": []}
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small project with functions of its own."""
    root = tmp_path_factory.mktemp("project")
    (root / "template.yaml").write_text(TEMPLATE)
    for name, code in (("code", CODE), ("migrate", MIGRATE)):
        (root / name).mkdir()
        (root / name / "app.py").write_text(textwrap.dedent(code))
    (root / "loops").mkdir()
    return root


def small_stack(project: Path, **options: Any) -> Stack:
    given: dict[str, Any] = {
        "port": 0,
        "database_url": "postgresql://nowhere",
        "environment": {"PATH": os.environ["PATH"]},
    }
    return Stack(root=project, **(given | options))


@pytest.fixture(scope="module")
def accesses() -> list[str]:
    return []


@pytest.fixture(scope="module")
def stack(project: Path, accesses: list[str]) -> Iterator[Stack]:
    timeouts = {"OtherFunction": 0.5}
    with small_stack(project, on_access=accesses.append, timeouts=timeouts, workers_per_function=2) as stack:
        yield stack


@pytest.fixture
def lambda_client(stack: Stack) -> Any:
    return boto3.client(
        "lambda",
        endpoint_url=stack.url,
        region_name="us-east-1",
        aws_access_key_id="local",
        aws_secret_access_key="local",
        config=Config(retries={"max_attempts": 0}),
    )


def wait_until(holds: Callable[[], object]) -> None:
    for _ in range(1500):
        if holds():
            return
        time.sleep(0.02)
    raise AssertionError("waited in vain")


# ---------------------------------------------------------------------------------------------- HTTP API


def test_request_becomes_an_event_and_its_answer_a_response(stack: Stack, accesses: list[str]) -> None:
    answer = request(stack.url, "PATCH", "/echo/a%20b?x=1&x=2", {"a": "é"}, {"x-thing": "1", "cookie": "a=1; b=2"})
    assert answer.status == 200
    event = answer.json()["event"]
    assert answer.json()["function"] == "EchoFunction"
    assert event["routeKey"] == "ANY /echo/{name}"
    assert event["rawPath"] == "/echo/a b"
    assert event["rawQueryString"] == "x=1&x=2"
    assert event["queryStringParameters"] == {"x": "1,2"}
    assert event["pathParameters"] == {"name": "a b"}
    assert event["cookies"] == ["a=1", "b=2"]
    assert event["headers"]["x-thing"] == "1"
    assert json.loads(event["body"]) == {"a": "é"}
    assert event["isBase64Encoded"] is False
    assert event["requestContext"]["http"]["method"] == "PATCH"
    assert "authorizer" not in event["requestContext"]
    assert answer.headers["apigw-requestid"] == event["requestContext"]["requestId"]
    wait_until(lambda: any(re.fullmatch(r"PATCH /echo/a%20b 200 \d+ ms", line) for line in accesses))


def test_unknown_path_goes_to_the_default_route(stack: Stack) -> None:
    assert request(stack.url, "GET", "/nowhere/at/all").json()["event"]["routeKey"] == "$default"
    assert request(stack.url, "GET", "/status").json()["event"]["routeKey"] == "$default"


def test_form_as_curl_sends_it_arrives_in_base64(stack: Stack) -> None:
    headers = {"content-type": "application/x-www-form-urlencoded"}
    event = request(stack.url, "POST", "/echo/x", b"{}", headers).json()["event"]
    assert (event["isBase64Encoded"], base64.b64decode(event["body"])) == (True, b"{}")


def test_answer_of_the_function_is_kept(stack: Stack) -> None:
    result = {"statusCode": 418, "headers": {"x-one": "1"}, "cookies": ["a=1"], "body": "tea"}
    answer = request(stack.url, "POST", "/status", result)
    assert (answer.status, answer.body) == (418, b"tea")
    assert (answer.headers["x-one"], answer.headers["set-cookie"]) == ("1", "a=1")
    assert request(stack.url, "POST", "/status", {"statusCode": 204}).body == b""
    assert request(stack.url, "GET", "/echo/plain").json() == {"plain": True}
    assert request(stack.url, "HEAD", "/echo/x").status == 200


@pytest.mark.parametrize("result", [{"statusCode": "many"}, {"statusCode": 200, "body": {}}])
def test_answer_that_is_malformed_is_a_500(stack: Stack, result: dict[str, Any]) -> None:
    answer = request(stack.url, "POST", "/status", result)
    assert (answer.status, answer.json()) == (500, {"message": "Internal Server Error"})


def test_function_that_fails_is_a_500(stack: Stack) -> None:
    answer = request(stack.url, "GET", "/echo/raise")
    assert (answer.status, answer.json()) == (500, {"message": "Internal Server Error"})


def test_body_over_10_mb_is_a_413(stack: Stack) -> None:
    answer = request(stack.url, "POST", "/echo/x", b"x" * (10 * 1024 * 1024 + 1))
    assert (answer.status, answer.json()) == (413, {"message": "Request Entity Too Large"})


def test_function_that_takes_longer_than_api_gateway_waits_is_a_503(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gateway, "INTEGRATION_SECONDS", 0.3)
    with small_stack(project) as stack:
        answer = request(stack.url, "GET", "/echo/sleep")
        assert (answer.status, answer.json()) == (503, {"message": "Service Unavailable"})
        assert len(stack.busy_pids("EchoFunction")) == 1, "the function goes on"


def test_more_calls_than_workers_queue(stack: Stack) -> None:
    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(lambda number: request(stack.url, "GET", f"/echo/{number}"), range(12)))
    assert [answer.json()["event"]["pathParameters"]["name"] for answer in answers] == [str(n) for n in range(12)]


def test_worker_that_is_killed_in_a_call_fails_that_call_only(project: Path) -> None:
    with small_stack(project) as stack, ThreadPoolExecutor(1) as pool:
        call = pool.submit(request, stack.url, "GET", "/echo/sleep")
        wait_until(lambda: stack.busy_pids("EchoFunction"))
        os.kill(stack.busy_pids("EchoFunction")[0], signal.SIGKILL)
        assert call.result().status == 500
        assert request(stack.url, "GET", "/echo/x").status == 200


# ---------------------------------------------------------------------------------------------- Lambda


@pytest.mark.parametrize(
    "name", ["EchoFunction", "arn:aws:lambda:eu-west-1:999999999999:function:EchoFunction", "EchoFunction:$LATEST"]
)
def test_boto3_invokes_a_function(lambda_client: Any, name: str) -> None:
    answer = lambda_client.invoke(FunctionName=name, Payload=json.dumps({"a": "é"}))
    assert answer["StatusCode"] == 200
    assert answer["ExecutedVersion"] == "$LATEST"
    assert "FunctionError" not in answer
    assert json.loads(answer["Payload"].read())["got"] == {"a": "é"}


def test_boto3_reads_a_secret_as_it_is_now(stack: Stack) -> None:
    client = boto3.client(
        "secretsmanager",
        endpoint_url=stack.url,
        region_name="us-east-1",
        aws_access_key_id="local",
        aws_secret_access_key="local",
    )
    stack.secrets["token"] = "one"
    answer = client.get_secret_value(SecretId="token")
    assert answer["SecretString"] == "one"
    stack.secrets["token"] = "other"
    assert client.get_secret_value(SecretId=answer["ARN"])["SecretString"] == "other"
    with pytest.raises(client.exceptions.ResourceNotFoundException):
        client.get_secret_value(SecretId="gone")
    with pytest.raises(ClientError, match="knows no PutSecretValue"):
        client.put_secret_value(SecretId="token", SecretString="x")


def test_functions_reach_lambda_and_sqs_at_the_gateway(stack: Stack) -> None:
    environment = stack.invoke("EchoFunction", {})["environment"]
    assert environment["AWS_ENDPOINT_URL_LAMBDA"] == environment["AWS_ENDPOINT_URL_SQS"] == stack.url
    assert environment["DATABASE_URL"] == "postgresql://nowhere"
    assert environment["TRUST_ACTOR_HEADER"] == "1"


def test_failing_function_is_told_by_function_error(lambda_client: Any, stack: Stack) -> None:
    answer = lambda_client.invoke(FunctionName="EchoFunction", Payload=b'{"raise": "no"}')
    assert (answer["StatusCode"], answer["FunctionError"]) == (200, "Unhandled")
    error = json.loads(answer["Payload"].read())
    assert (error["errorType"], error["errorMessage"]) == ("ValueError", "no")
    with pytest.raises(StackError, match="EchoFunction failed: ValueError: no"):
        stack.invoke("EchoFunction", {"raise": "no"})


def test_asynchronous_invocation_runs_in_the_background(lambda_client: Any, tmp_path: Path) -> None:
    file = tmp_path / "touched"
    payload = json.dumps({"touch": str(file)})
    answer = lambda_client.invoke(FunctionName="EchoFunction", InvocationType="Event", Payload=payload)
    assert answer["StatusCode"] == 202
    wait_until(file.exists)


def test_dry_run_calls_nothing(lambda_client: Any, tmp_path: Path) -> None:
    payload = json.dumps({"touch": str(tmp_path / "touched")})
    answer = lambda_client.invoke(FunctionName="EchoFunction", InvocationType="DryRun", Payload=payload)
    assert answer["StatusCode"] == 204
    assert not (tmp_path / "touched").exists()


@pytest.mark.parametrize(
    ("name", "payload", "code"),
    [
        ("NoFunction", b"{}", "ResourceNotFoundException"),
        ("EchoFunction", b"{", "InvalidRequestContentException"),
        ("EchoFunction", b'{"a": NaN}', "InvalidRequestContentException"),
        ("EchoFunction", b'"' + b"x" * 6 * 1024 * 1024 + b'"', "RequestTooLargeException"),
    ],
    ids=["unknown", "malformed", "not a number", "too large"],
)
def test_refused_call_has_lambdas_error(lambda_client: Any, name: str, payload: bytes, code: str) -> None:
    with pytest.raises(ClientError) as caught:
        lambda_client.invoke(FunctionName=name, Payload=payload)
    assert caught.value.response["Error"]["Code"] == code
    assert caught.value.response["Error"]["Message"]


# ---------------------------------------------------------------------------------------------- start and end


def test_migration_that_is_refused_ends_the_start_with_its_reason(project: Path) -> None:
    with pytest.raises(StackError, match="MigrateFunction failed: RuntimeError: 084 was changed"):
        small_stack(project, database_url="postgresql://refuse").__enter__()


def test_port_in_use_is_an_error_that_names_port(project: Path, stack: Stack) -> None:
    port = int(stack.url.rpartition(":")[2])
    with pytest.raises(StackError, match=rf"port {port} is in use: choose another one, PORT="):
        small_stack(project, port=port).__enter__()


@pytest.mark.parametrize(("name", "value"), [("PORT", "many"), ("PORT", "65536"), ("LOOPS_DIR", "/no/such/folder")])
def test_variable_that_cannot_be_used_is_named(project: Path, name: str, value: str) -> None:
    with pytest.raises(SettingsError, match=f"{name}={value}"):
        small_stack(project, environment={name: value})


def test_environment_says_port_database_loops_and_trust(project: Path, tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {
        "DATABASE_URL": "postgresql://elsewhere",
        "LOOPS_DIR": str(tmp_path),
        "PORT": str(port),
        "TRUST_ACTOR_HEADER": "0",
    }
    with Stack(root=project, environment=environment) as stack:
        assert stack.url == f"http://127.0.0.1:{port}"
        assert stack.database_url == "postgresql://elsewhere"
        seen = stack.invoke("EchoFunction", {})["environment"]
    assert (seen["LOOPS_DIR"], seen["TRUST_ACTOR_HEADER"]) == (str(tmp_path), "0")
    assert seen["DATABASE_URL"] == "postgresql://elsewhere"


def test_several_stacks_start_at_once_on_one_empty_database(server_url: str, empty_database: str) -> None:
    def start(_number: int) -> Stack:
        return Stack(port=0, database_url=empty_database).__enter__()

    with ThreadPoolExecutor(3) as pool:
        stacks = list(pool.map(start, range(3)))
    try:
        answers = [stack.invoke("MigrateFunction", {"action": "verify"}) for stack in stacks]
        assert [answer["ok"] for answer in answers] == [True] * 3
    finally:
        for stack in stacks:
            stack.__exit__()


@pytest.fixture
def empty_database(server_url: str) -> str:
    name = f"local_{os.getpid()}_{time.time_ns()}"
    with psycopg.connect(server_url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}".encode())
    return urlsplit(server_url)._replace(path=f"/{name}").geturl()


# ---------------------------------------------------------------------------------------------- commands


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """What the commands need of the project, in a folder without .local/."""
    for name in ("events", "functions", "layers", "loops", "migrations", "tools"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "template.yaml", tmp_path)
    return tmp_path


def start_command(checkout: Path, command: str, **variables: str) -> subprocess.Popen[str]:
    kept = {"HOME", "LANG", "PATH", "TMPDIR"}
    environment = {name: value for name, value in os.environ.items() if name in kept}
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-m", "tools.local", command],
        cwd=checkout,
        env=environment | {"PYTHONPATH": str(checkout), **variables},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run_command(checkout: Path, command: str, stdin: str = "", **variables: str) -> tuple[int, str, str]:
    process = start_command(checkout, command, **variables)
    output, errors = process.communicate(stdin)
    return process.returncode, output, errors


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_dev_serves_until_it_is_told_to_stop(checkout: Path, empty_database: str, number: signal.Signals) -> None:
    process = start_command(checkout, "dev", PORT="0", DATABASE_URL=empty_database)
    assert process.stdout is not None
    ready = re.fullmatch(r"ready (http://127\.0\.0\.1:\d+) DATABASE_URL=(.+)\n", process.stdout.readline())
    assert ready, process.communicate()
    url, database_url = ready.groups()
    assert database_url == empty_database
    headers = {"x-afu9-sub": "ann"}
    answer = request(url, "POST", "/api/loop/issues/AFU9-123/run-next-step", {}, headers)
    assert answer.json()["stepExecuted"]["stepType"] == "S1_PICK_ISSUE", "the sample issue is registered"
    assert (checkout / ".local" / "database-url").stat().st_mode & 0o777 == 0o600
    query = "SELECT status FROM loop_runs;"
    assert "completed" in run_command(checkout, "sql", query)[1]
    assert_sound(database_url)
    process.send_signal(number)
    output, errors = process.communicate()
    assert (process.returncode, output) == (0, "")
    assert "POST /api/loop/issues/AFU9-123/run-next-step 200 " in errors
    assert "Traceback" not in errors
    password = psycopg.conninfo.conninfo_to_dict(database_url)["password"]
    assert str(password) not in errors + (checkout / ".local" / "functions.log").read_text()
    status, _, errors = run_command(checkout, "sql", query)
    assert (status, "make dev" in errors) == (1, True)


def test_sql_uses_database_url_where_there_is_one(checkout: Path, empty_database: str) -> None:
    status, output, _ = run_command(checkout, "sql", "SELECT current_database();", DATABASE_URL=empty_database)
    assert status == 0
    assert str(psycopg.conninfo.conninfo_to_dict(empty_database)["dbname"]) in output


def test_dev_that_cannot_start_says_why(checkout: Path, stack: Stack) -> None:
    status, output, errors = run_command(checkout, "dev", PORT=stack.url.rpartition(":")[2])
    assert (status, output) == (1, "")
    assert errors.startswith("error: port ")


def test_demo_shows_a_run_its_rows_and_a_recovery(checkout: Path, server_url: str) -> None:
    status, output, errors = run_command(checkout, "demo", DATABASE_URL=server_url)
    assert (status, errors) == (0, "")
    assert "\x1b" not in output
    assert len(output.splitlines()) <= 75
    for shown in ("loop.runNextStep.v1", "loop_run_finished", "LOOP_CONFLICT", "LEASE_EXPIRED", "make dev"):
        assert shown in output
    with psycopg.connect(server_url) as connection:
        left = connection.execute("SELECT count(*) FROM pg_database WHERE datname LIKE 'loop_runner_demo%'").fetchone()
    assert left == (0,)
