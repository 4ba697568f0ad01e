"""Whoever operates a deployment hears of what is wrong and sees how it goes."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest

from loop_runner.metrics import Metric
from tests.conftest import ROOT
from tests.template.deployment import PROXY, TOPIC, WEBHOOK, Deployment

if TYPE_CHECKING:
    from collections.abc import Iterator

OPERATIONS = (ROOT / "docs/operations.md").read_text()
DIMENSIONS = {
    "Runs": {"service", "status"},
    "StepDuration": {"loop", "service", "step"},
}
"""Of metrics whose dimensions are others than the service (tests/integration/test_observability.py)."""


def alarms(deployment: Deployment) -> dict[str, Any]:
    return deployment.of("AWS::CloudWatch::Alarm")


def watched(deployment: Deployment) -> set[tuple[str, str, str]]:
    """Namespace, metric and what it is of, of each alarm."""
    return {
        (deployment.text(each["Namespace"]), each["MetricName"], deployment.text(each["Dimensions"][0]["Value"]))
        for each in alarms(deployment).values()
    }


def test_each_function_is_watched_for_errors_and_throttles(deployment: Deployment) -> None:
    functions = deployment.of("AWS::Lambda::Function")
    expected = {("AWS/Lambda", metric, name) for metric in ("Errors", "Throttles") for name in functions}
    assert {each for each in watched(deployment) if each[0] == "AWS/Lambda"} == expected


def test_one_failure_is_enough_however_rarely_a_function_runs(deployment: Deployment) -> None:
    """With a SweepInterval of hours there is one sweep in many periods."""
    for each in alarms(deployment).values():
        if each["MetricName"] == "Errors":
            assert (each["Statistic"], each["Threshold"], each["EvaluationPeriods"]) == ("Sum", 0, 1)
            assert "DatapointsToAlarm" not in each


def test_what_else_goes_wrong_is_watched(deployment: Deployment) -> None:
    expected = {
        ("AWS/ApiGateway", "5xx", "LoopApi"),
        ("AWS/SQS", "ApproximateNumberOfMessagesVisible", "RunDeadLetters.QueueName"),
        ("LoopRunner/local", "LostRuns", "loop-runner"),
        ("LoopRunner/local", "Conflicts", "loop-runner"),
    }
    if deployment.of("AWS::RDS::DBCluster"):
        expected.add(("AWS/RDS", "ACUUtilization", "DatabaseCluster"))
    if deployment.of("AWS::RDS::DBProxy"):
        expected.add(("AWS/RDS", "DatabaseConnectionsCurrentlySessionPinned", "DatabaseProxy"))
    assert {each for each in watched(deployment) if each[0] != "AWS/Lambda"} == expected


def test_alarms_go_to_the_topic_where_there_is_one_and_silence_is_no_alarm(deployment: Deployment) -> None:
    topic = [{"Ref": "AlarmTopicArn"}] if deployment.text({"Ref": "AlarmTopicArn"}) else None
    for each in alarms(deployment).values():
        assert (each.get("AlarmActions"), each.get("OKActions")) == (topic, topic)
        assert each["TreatMissingData"] == "notBreaching"
        assert each["AlarmDescription"]


@pytest.mark.parametrize("name", sorted(alarms(Deployment(PROXY, TOPIC, WEBHOOK))))
def test_operations_says_what_to_do_about_each_alarm(name: str) -> None:
    rows = re.findall(r"^\| ([\w, ]+?) \|", OPERATIONS.partition("## Alarms")[2], re.MULTILINE)
    assert name.removesuffix("Alarm") in {each for row in rows for each in row.split(", ")}


def metrics(deployment: Deployment) -> Iterator[list[Any]]:
    """The metrics of each widget of the dashboard: namespace, name, dimensions and their values, options."""
    for widget in json.loads(deployment.text(deployment["Dashboard"]["DashboardBody"]))["widgets"]:
        yield from widget["properties"]["metrics"]


def test_dashboard_shows_each_metric_of_the_functions_as_they_write_it(deployment: Deployment) -> None:
    shown = {}
    for metric in metrics(deployment):
        search = isinstance(metric[0], dict) and re.search(
            r'\{"LoopRunner/local",([\w,]+)\} MetricName="(\w+)"', metric[0]["expression"]
        )
        if search:
            shown[search[2]] = set(search[1].split(","))
        elif metric[0] == "LoopRunner/local":
            shown[metric[1]] = {each for each in metric[2::2] if isinstance(each, str)}
    assert shown == {name: DIMENSIONS.get(name, {"service"}) for name in Metric}


def test_dashboard_shows_the_database_and_the_proxy_that_the_stack_has_made(deployment: Deployment) -> None:
    shown = {metric[1] for metric in metrics(deployment) if metric[0] == "AWS/RDS"}
    expected = set()
    if deployment.of("AWS::RDS::DBCluster"):
        expected |= {"ServerlessDatabaseCapacity", "DatabaseConnections"}
    if deployment.of("AWS::RDS::DBProxy"):
        expected |= {"DatabaseConnectionsCurrentlySessionPinned"}
    assert shown == expected


def test_widgets_do_not_overlap(deployment: Deployment) -> None:
    taken: set[tuple[int, int]] = set()
    for widget in json.loads(deployment.text(deployment["Dashboard"]["DashboardBody"]))["widgets"]:
        cells = {
            (widget["x"] + column, widget["y"] + row)
            for column in range(widget["width"])
            for row in range(widget["height"])
        }
        assert max(column for column, _ in cells) < 24
        assert not cells & taken
        taken |= cells


def test_outputs_say_where_to_go_next(deployment: Deployment) -> None:
    made = {"DatabaseEndpoint", "DatabaseResource", "MasterSecretArn"}
    expected = {"ApiUrl", "ConsoleUrl", "MigrateFunctionName", "LogGroupName", "DashboardUrl", "DeadLettersUrl"}
    expected |= {"FunctionSecurityGroupId"} | (made if deployment.of("AWS::RDS::DBCluster") else set())
    expected |= {"GithubWebhookUrl"} if "GithubWebhookRoute" in deployment.resources else set()
    assert set(deployment.outputs) == expected
    assert all(each["Description"] for each in deployment.outputs.values())
    assert deployment.text(deployment.outputs["ConsoleUrl"]["Value"]) == "LoopApi.ApiEndpoint/console"
