"""What the local stack reads from SAM templates."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools.local.intrinsics import TemplateError
from tools.local.template import QueueProperties, Route, Schedule, Source, load_functions, load_queues

ROOT = Path(__file__).parents[2]

TEMPLATE = """
Transform: AWS::Serverless-2016-10-31
Parameters:
  Level: {Type: String, Default: INFO}
  Secret: {Type: String}
Mappings:
  Sizes: {small: {memory: 256}}
Conditions:
  IsLoud: !Equals [!Ref Level, DEBUG]
  IsQuiet: !Not [!Condition IsLoud]
Globals:
  Function:
    Handler: app.handler
    Timeout: 29
    Layers: [!Ref Layer, "arn:aws:lambda:us-east-1:123456789012:layer:other:1"]
    Environment:
      Variables:
        LEVEL: !Ref Level
        SHADOWED: global
Resources:
  Queue: {Type: AWS::SQS::Queue}
  Work:
    Type: AWS::SQS::Queue
    Properties: {RedrivePolicy: {deadLetterTargetArn: !GetAtt Queue.Arn, maxReceiveCount: 5}}
  Layer:
    Type: AWS::Serverless::LayerVersion
    Properties: {ContentUri: layer}
  Any:
    Type: AWS::ApiGatewayV2::Route
    Properties: {RouteKey: "ANY /files/{proxy+}", Target: !Sub "integrations/${Integration}"}
  Post:
    Type: AWS::ApiGatewayV2::Route
    Properties: {RouteKey: "POST /things/{id}", Target: !Sub "integrations/${Integration}"}
  Default:
    Type: AWS::ApiGatewayV2::Route
    Properties: {RouteKey: $default, Target: !Sub "integrations/${Integration}"}
  Never:
    Type: AWS::ApiGatewayV2::Route
    Condition: IsLoud
    Properties: {RouteKey: GET /loud, Target: !Sub "integrations/${Integration}"}
  Integration:
    Type: AWS::ApiGatewayV2::Integration
    Properties: {IntegrationUri: !GetAtt First.Arn}
  First:
    Type: AWS::Serverless::Function
    Properties:
      CodeUri: first
      MemorySize: !FindInMap [Sizes, small, memory]
      Environment:
        Variables:
          ARN: !GetAtt Second.Arn
          ABSENT: !If [IsLoud, loud, !Ref AWS::NoValue]
          CHOSEN: !If [IsQuiet, quiet, loud]
          JOINED: !Join ["-", [a, !Ref "AWS::Region"]]
          LITERAL: !Sub "${!kept} ${AWS::AccountId} ${Queue.QueueName}"
          NUMBER: 5
          QUEUE: !Ref Queue
          SHADOWED: own
          SUBSTITUTED: !Sub ["${Level}/${Other}", {Other: !Ref Queue}]
          FLAG: true
      Events:
        Minutely: {Type: ScheduleV2, Properties: {ScheduleExpression: rate(1 minute), Input: '{"a": 1}'}}
        Old: {Type: Schedule, Properties: {Schedule: "cron(0 0 * * ? *)", Enabled: false}}
        Each:
          Type: SQS
          Properties: {Queue: !GetAtt Work.Arn, BatchSize: 1, FunctionResponseTypes: [ReportBatchItemFailures]}
        Many: {Type: SQS, Properties: {Queue: !GetAtt Queue.Arn}}
  Second:
    Type: AWS::Serverless::Function
    Properties:
      {CodeUri: second, Handler: deep.module.run, Timeout: 900, Layers: [], FunctionName: !Sub "${Level}-second"}
  Loud:
    Type: AWS::Serverless::Function
    Condition: IsLoud
    Properties: {CodeUri: nowhere}
"""


def write(folder: Path, text: str = TEMPLATE) -> Path:
    for name in ("first", "second", "layer"):
        (folder / name).mkdir(exist_ok=True)
    path = folder / "template.yaml"
    path.write_text(text)
    return path


def test_function_has_what_globals_and_its_own_properties_say(tmp_path: Path) -> None:
    functions = load_functions(write(tmp_path))
    assert list(functions) == ["First", "Second"], "a function whose condition does not hold is not created"
    first, second = functions.values()
    assert (first.module, first.attribute, first.code) == ("app", "handler", tmp_path / "first")
    assert (first.timeout, first.memory) == (29, 256)
    assert first.layers == (tmp_path / "layer",)
    assert (second.module, second.attribute, second.timeout, second.memory) == ("deep.module", "run", 900, 128)
    assert (first.invoked_as, second.invoked_as) == (None, "INFO-second")


def test_environment_is_resolved(tmp_path: Path) -> None:
    assert load_functions(write(tmp_path))["First"].environment == {
        "ARN": "arn:aws:lambda:us-east-1:123456789012:function:Second",
        "CHOSEN": "quiet",
        "JOINED": "a-us-east-1",
        "LEVEL": "INFO",
        "LITERAL": "${kept} 123456789012 Queue.QueueName",
        "NUMBER": "5",
        "QUEUE": "Queue",
        "SHADOWED": "own",
        "SUBSTITUTED": "INFO/Queue",
        "FLAG": "true",
    }


def test_overrides_win_over_defaults_and_references(tmp_path: Path) -> None:
    overrides = {"Level": "DEBUG", "Queue": "http://127.0.0.1/queue"}
    text = TEMPLATE.replace("CodeUri: nowhere", "CodeUri: first")
    functions = load_functions(write(tmp_path, text), overrides)
    environment = functions["First"].environment
    assert (environment["LEVEL"], environment["QUEUE"]) == ("DEBUG", "http://127.0.0.1/queue")
    assert environment["CHOSEN"] == environment["ABSENT"] == "loud"
    assert "Loud" in functions


def test_routes_are_of_the_function_that_their_integration_invokes_and_events_become_schedules(tmp_path: Path) -> None:
    first = load_functions(write(tmp_path))["First"]
    assert first.routes == (
        Route("First", "ANY", "/files/{proxy+}"),
        Route("First", "POST", "/things/{id}"),
        Route("First", "ANY", None),
    )
    assert [route.key for route in first.routes] == ["ANY /files/{proxy+}", "POST /things/{id}", "$default"]
    assert first.schedules == (
        Schedule("Minutely", "rate(1 minute)", '{"a": 1}', enabled=True),
        Schedule("Old", "cron(0 0 * * ? *)", None, enabled=False),
    )


def test_queues_are_sources_of_functions_and_have_dead_letters(tmp_path: Path) -> None:
    path = write(tmp_path)
    assert load_functions(path)["First"].sources == (
        Source("Work", 1, partial=True),
        Source("Queue", 10, partial=False),
    )
    assert load_queues(path) == {
        "Queue": QueueProperties("Queue", None, 0),
        "Work": QueueProperties("Work", "Queue", 5),
    }


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("NUMBER: 5", "NUMBER: !Ref Secret", "First: Environment.Variables.NUMBER: parameter Secret has no default"),
        ("NUMBER: 5", "NUMBER: !Ref Typo", "First: Environment.Variables.NUMBER: there is neither a parameter nor"),
        ("NUMBER: 5", "NUMBER: !Sub '${Typo.Arn}'", "First: Environment.Variables.NUMBER: there is no resource Typo"),
        ("NUMBER: 5", "NUMBER: !ImportValue x", "Fn::ImportValue is not supported"),
        ("NUMBER: 5", "NUMBER: [1]", "First: Environment.Variables.NUMBER is not a text"),
        ("[IsLoud, loud", "[IsTypo, loud", "First: Environment.Variables.ABSENT: there is no condition IsTypo"),
        ("CodeUri: first", "CodeUri: typo", "First: CodeUri is 'typo'"),
        ("Handler: app.handler", "Handler: app", "First: Handler is 'app'"),
        ("Timeout: 29", "Timeout: soon", "First: Timeout is 'soon'"),
        ("POST /things/{id}", "POTS /things", "Post: RouteKey is 'POTS /things'"),
        ("POST /things/{id}", "POST things", "Post: RouteKey is 'POST things'"),
        ("POST /things/{id}", "/things", "Post: RouteKey is '/things'"),
        ('!Sub "integrations/${Integration}"', "First", "Any: Target is 'First'"),
        ("!GetAtt First.Arn}", "!GetAtt Work.Arn}", "integrations/Integration: IntegrationUri is 'arn:aws:sqs:"),
        ("Minutely: {Type: ScheduleV2, ", "Minutely: {", "First: Events.Minutely has no Type"),
        ("ScheduleExpression: rate(1 minute)", "Nothing: 1", "First: Events.Minutely.ScheduleExpression is None"),
        ("Resources:", "Other:", "has no Resources"),
        ("Resources:", "Resources: [", "cannot be read"),
    ],
)
def test_errors_name_resource_and_key(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in TEMPLATE
    with pytest.raises(TemplateError) as caught:
        load_functions(write(tmp_path, TEMPLATE.replace(old, new)))
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("{deadLetterTargetArn: !GetAtt Queue.Arn, ", "{", "Work: RedrivePolicy must have a deadLetterTargetArn"),
        ("maxReceiveCount: 5", "maxReceiveCount: some", "Work: RedrivePolicy must have a deadLetterTargetArn"),
        ("!GetAtt Queue.Arn, max", "!GetAtt First.Arn, max", "Work: RedrivePolicy: 'arn:aws:lambda:"),
        ("Queue: !GetAtt Work.Arn", "Queue: Elsewhere", "First: Events.Each: 'Elsewhere' is not the ARN of a queue"),
        ("BatchSize: 1", "BatchSize: few", "First: Events.Each: BatchSize is 'few'"),
    ],
)
def test_errors_of_queues_name_resource_and_key(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in TEMPLATE
    path = write(tmp_path, TEMPLATE.replace(old, new))
    with pytest.raises(TemplateError) as caught:
        (load_queues(path), load_functions(path))
    assert message in str(caught.value)


def test_the_projects_own_template_is_read() -> None:
    functions = load_functions(ROOT / "template.yaml")
    keys = {route.key for function in functions.values() for route in function.routes}
    assert {"POST /api/loop/issues/{issueId}/run-next-step", "$default"} <= keys
    url = functions["RunNextStepFunction"].environment["DATABASE_URL"]
    assert url.startswith("postgresql://loop_app@DatabaseCluster.Endpoint.Address:5432/")
    assert functions["MigrateFunction"].routes == ()
    assert functions["RunWorkerFunction"].sources == (Source("RunQueue", 1, partial=True),)
    assert load_queues(ROOT / "template.yaml")["RunQueue"] == QueueProperties("RunQueue", "RunDeadLetters", 5)
