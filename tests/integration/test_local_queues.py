"""The local stack brings messages to the function that the template names, as Lambda does, and runs step functions."""

from __future__ import annotations

import json
import os
import textwrap
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from tools.local import queues
from tools.local.client import request
from tools.local.settings import SettingsError
from tools.local.stack import Stack, StackError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

TEMPLATE = """
Resources:
  MigrateFunction: {Type: AWS::Serverless::Function, Properties: {CodeUri: migrate, Handler: app.handler}}
  Work:
    Type: AWS::SQS::Queue
    Properties: {RedrivePolicy: {deadLetterTargetArn: !GetAtt Dead.Arn, maxReceiveCount: 3}}
  Dead: {Type: AWS::SQS::Queue}
  WorkerFunction:
    Type: AWS::Serverless::Function
    Properties:
      CodeUri: worker
      Handler: app.handler
      Timeout: 20
      Environment: {Variables: {QUEUE_URL: !Ref Work}}
      Events:
        Message:
          Type: SQS
          Properties: {Queue: !GetAtt Work.Arn, BatchSize: 5, FunctionResponseTypes: [ReportBatchItemFailures]}
"""

WORKER = """
    import json, os
    from pathlib import Path

    def handler(event, context):
        if "Records" not in event:
            return dict(os.environ)
        failed = []
        for record in event["Records"]:
            say = json.loads(record["body"])
            with Path(say["file"]).open("a") as file:
                file.write(record["attributes"]["ApproximateReceiveCount"])
            if say["do"] == "crash":
                os._exit(1)
            if say["do"] == "fail":
                failed.append({"itemIdentifier": record["messageId"]})
        return {"batchItemFailures": failed}
"""

STEP = """
    import os, pathlib

    def handler(event, context):
        return {
            "environment": dict(os.environ), "function": context.function_name, "event": event,
            "seconds": context.get_remaining_time_in_millis() / 1000,
        }
"""

LOOP = """
name = "patient"
initial_state = "OPEN"
completed_states = ["DONE"]
[[steps]]
number = 1
type = "WORK"
from = ["OPEN"]
to = "DONE"
timeout_seconds = 240
executor = { kind = "lambda", function = "slow" }
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("project")
    (root / "template.yaml").write_text(TEMPLATE)
    code = {
        "migrate": "def handler(event, context): return {}",
        "worker": WORKER,
        "my-steps/slow": STEP,
        "my-steps/quick": STEP,
        "tools/steps/shipped": STEP,
        "twice/WorkerFunction": STEP,
    }
    for name, text in code.items():
        (root / name).mkdir(parents=True)
        (root / name / "app.py").write_text(textwrap.dedent(text))
    (root / "my-steps" / "not-a-function").mkdir()
    (root / "loops").mkdir()
    (root / "loops" / "patient.toml").write_text(LOOP)
    return root


def small_stack(project: Path, environment: dict[str, str] | None = None, **options: Any) -> Stack:
    return Stack(
        root=project,
        port=0,
        database_url="postgresql://nowhere",
        environment={"PATH": os.environ["PATH"], **(environment or {})},
        **options,
    )


@pytest.fixture(scope="module")
def said() -> list[str]:
    return []


@pytest.fixture(scope="module")
def stack(project: Path, said: list[str]) -> Iterator[Stack]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(queues, "REDELIVERY_SECONDS", 0.05)
        environment = {"STEPS_DIR": str(project / "my-steps")}
        with small_stack(project, environment, on_access=said.append, throttled={"quick"}) as stack:
            yield stack


def client_of(stack: Stack, service: str) -> Any:
    return boto3.client(
        service,
        endpoint_url=stack.url,
        region_name="us-east-1",
        aws_access_key_id="local",
        aws_secret_access_key="local",
        config=Config(retries={"max_attempts": 0}),
    )


@pytest.fixture
def sqs(stack: Stack) -> Any:
    return client_of(stack, "sqs")


@pytest.fixture(scope="module")
def queue_url(stack: Stack) -> str:
    return str(stack.invoke("WorkerFunction", {})["QUEUE_URL"])


def wait_until(holds: Callable[[], object]) -> None:
    for _ in range(1500):
        if holds():
            return
        time.sleep(0.02)
    raise AssertionError("waited in vain")


def message(file: Path, do: str = "work") -> str:
    return json.dumps({"file": str(file), "do": do})


def received(file: Path) -> str:
    return file.read_text() if file.exists() else ""


# ---------------------------------------------------------------------------------------------- queues


def test_message_invokes_the_function_that_the_template_names(
    sqs: Any, stack: Stack, queue_url: str, tmp_path: Path
) -> None:
    assert queue_url == f"{stack.url}/123456789012/Work"
    assert sqs.send_message(QueueUrl=queue_url, MessageBody=message(tmp_path / "a"))["MessageId"]
    wait_until(lambda: received(tmp_path / "a") == "1")


def test_batch_is_delivered_and_a_delay_is_kept(sqs: Any, queue_url: str, tmp_path: Path) -> None:
    entries = [{"Id": str(n), "MessageBody": message(tmp_path / str(n)), "DelaySeconds": n * 300} for n in range(4)]
    answer = sqs.send_message_batch(QueueUrl=queue_url, Entries=[*entries, {"Id": "x", "MessageBody": ""}])
    assert [each["Id"] for each in answer["Successful"]] == ["0", "1", "2", "3"]
    assert [(each["Id"], each["Code"]) for each in answer["Failed"]] == [("x", "InvalidParameterValue")]
    wait_until(lambda: received(tmp_path / "0") == "1")
    attributes = sqs.get_queue_attributes(QueueUrl=queue_url, AttributeNames=["All"])["Attributes"]
    assert attributes["ApproximateNumberOfMessagesDelayed"] == "3"
    assert not (tmp_path / "1").exists()


@pytest.mark.parametrize("do", ["fail", "crash"])
def test_message_that_fails_comes_again_and_goes_to_the_dead_letters_at_last(
    sqs: Any, queue_url: str, tmp_path: Path, said: list[str], do: str
) -> None:
    dead_url = queue_url.replace("Work", "Dead")

    def dead() -> int:
        attributes = sqs.get_queue_attributes(QueueUrl=dead_url, AttributeNames=["ApproximateNumberOfMessages"])
        return int(attributes["Attributes"]["ApproximateNumberOfMessages"])

    before = dead()
    sqs.send_message(QueueUrl=queue_url, MessageBody=message(tmp_path / "a", do))
    wait_until(lambda: dead() == before + 1)
    assert received(tmp_path / "a") == "123"
    told = [line for line in said if str(tmp_path) in line]
    assert [line.partition(" and ")[0] for line in told] == [
        f"Work: a message failed for the {number}. time" for number in (1, 2, 3)
    ]
    assert ["goes to Dead" in line for line in told] == [False, False, True]


def test_only_the_messages_that_failed_come_again(stack: Stack, sqs: Any, queue_url: str, tmp_path: Path) -> None:
    entries = [
        {"Id": "good", "MessageBody": message(tmp_path / "good")},
        {"Id": "bad", "MessageBody": message(tmp_path / "bad", "fail")},
    ]
    sqs.send_message_batch(QueueUrl=queue_url, Entries=entries)
    wait_until(lambda: received(tmp_path / "bad") == "123")
    assert received(tmp_path / "good") == "1"


@pytest.mark.parametrize(
    ("parameters", "code"),
    [
        ({"QueueUrl": "http://127.0.0.1/123456789012/Unknown"}, "QueueDoesNotExist"),
        ({"MessageBody": ""}, "InvalidParameterValue"),
        ({"MessageBody": "x" * (1024 * 1024 + 1)}, "InvalidParameterValue"),
        ({"DelaySeconds": 901}, "InvalidParameterValue"),
    ],
    ids=["unknown queue", "empty", "too large", "too late"],
)
def test_refused_message_has_the_error_of_sqs(sqs: Any, queue_url: str, parameters: dict[str, Any], code: str) -> None:
    with pytest.raises(ClientError) as caught:
        sqs.send_message(**({"QueueUrl": queue_url, "MessageBody": "x"} | parameters))
    assert caught.value.response["Error"]["Code"].rpartition(".")[2] in {code, "NonExistentQueue"}


@pytest.mark.parametrize(
    ("ids", "code"),
    [([], "EmptyBatchRequest"), (range(11), "TooManyEntriesInBatchRequest"), ("aa", "BatchEntryIdsNotDistinct")],
)
def test_refused_batch_has_the_error_of_sqs(sqs: Any, queue_url: str, ids: Any, code: str) -> None:
    with pytest.raises(ClientError) as caught:
        sqs.send_message_batch(QueueUrl=queue_url, Entries=[{"Id": str(n), "MessageBody": "x"} for n in ids])
    assert code in caught.value.response["Error"]["Code"]


def test_other_calls_of_sqs_are_refused(sqs: Any) -> None:
    with pytest.raises(ClientError, match="does not know the call ListQueues"):
        sqs.list_queues()


# ---------------------------------------------------------------------------------------------- step functions


def test_each_folder_with_an_app_is_a_function_that_does_not_see_the_database(stack: Stack) -> None:
    answer = stack.invoke("slow", {"a": 1})
    assert (answer["function"], answer["event"]) == ("slow", {"a": 1})
    environment = answer["environment"]
    assert environment["LOOP_API_URL"] == environment["AWS_ENDPOINT_URL_LAMBDA"] == stack.url
    assert Path(environment["WORLD_DIR"]) == stack.world
    assert stack.world.is_dir()
    assert not {"DATABASE_URL", "TRUST_ACTOR_HEADER", "RUN_QUEUE_URL"} & environment.keys()


def test_function_may_run_as_long_as_the_longest_step_that_invokes_it(project: Path) -> None:
    with small_stack(project, {"STEPS_DIR": str(project / "my-steps")}) as stack:
        assert 230 < stack.invoke("slow", {})["seconds"] <= 240
        assert 20 < stack.invoke("quick", {})["seconds"] <= 30


def test_world_of_step_functions_is_kept_where_it_is_given_and_else_removed(project: Path, tmp_path: Path) -> None:
    with small_stack(project) as stack:
        own = stack.world
    assert not own.exists()
    with small_stack(project, world_folder=tmp_path / "world") as stack:
        assert stack.invoke("shipped", {})["environment"]["WORLD_DIR"] == str(tmp_path / "world")
    assert (tmp_path / "world").is_dir()


@pytest.mark.parametrize("name", ["no-such-function", "not-a-function", "shipped"])
def test_function_that_is_not_there_is_lambdas_404(stack: Stack, name: str) -> None:
    answer = request(stack.url, "POST", f"/2015-03-31/functions/{name}/invocations", {})
    assert (answer.status, answer.headers["x-amzn-errortype"]) == (404, "ResourceNotFoundException")


def test_throttled_function_is_lambdas_429(stack: Stack) -> None:
    with pytest.raises(ClientError) as caught:
        client_of(stack, "lambda").invoke(FunctionName="quick")
    assert caught.value.response["Error"]["Code"] == "TooManyRequestsException"
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 429


def test_folder_that_is_not_there_is_named(project: Path) -> None:
    with pytest.raises(SettingsError, match="STEPS_DIR=/no/such/folder is not a folder"):
        small_stack(project, {"STEPS_DIR": "/no/such/folder"})


def test_name_of_a_function_of_the_template_is_refused(project: Path) -> None:
    with pytest.raises(StackError, match="WorkerFunction is the name of a function of template"):
        small_stack(project, {"STEPS_DIR": str(project / "twice")}).__enter__()
