"""Nothing is public, everything is encrypted, and the database is the functions' alone."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest

from tests.template.deployment import (
    GIVEN_DATABASE,
    GIVEN_GROUP,
    GIVEN_ROUTES,
    GIVEN_VPC,
    KEY,
    OPENED_DATABASE,
    OUTSIDE,
    PROXY,
    Deployment,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

PUBLIC = {
    "AWS::EC2::EIP",
    "AWS::EC2::EgressOnlyInternetGateway",
    "AWS::EC2::InternetGateway",
    "AWS::EC2::NatGateway",
    "AWS::EC2::Route",
    "AWS::EC2::TransitGatewayAttachment",
    "AWS::EC2::VPCGatewayAttachment",
    "AWS::EC2::VPCPeeringConnection",
    "AWS::EC2::VPNGateway",
    "AWS::Lambda::Url",
    "AWS::S3::Bucket",
    "AWS::SQS::QueuePolicy",
    "AWS::SNS::TopicPolicy",
}


def ingress(deployment: Deployment) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every rule that lets something in, with the group that it is of."""
    for name, group in deployment.of("AWS::EC2::SecurityGroup").items():
        for rule in group.get("SecurityGroupIngress", []):
            yield name, rule
    for rule in deployment.of("AWS::EC2::SecurityGroupIngress").values():
        yield deployment.text(rule["GroupId"]), rule


def test_there_is_no_way_from_the_internet_but_the_api(deployment: Deployment) -> None:
    assert not deployment.of(*PUBLIC)
    for subnet in deployment.of("AWS::EC2::Subnet").values():
        assert subnet["MapPublicIpOnLaunch"] is False
    for instance in deployment.of("AWS::RDS::DBInstance").values():
        assert instance["PubliclyAccessible"] is False


def test_security_groups_admit_functions_and_the_proxy_and_nobody_else(deployment: Deployment) -> None:
    given = deployment.text({"Ref": "SecurityGroupId"})
    functions = given or "FunctionSecurityGroup"
    for group, rule in ingress(deployment):
        assert "CidrIp" not in rule
        source = deployment.text(rule["SourceSecurityGroupId"])
        assert source == functions or (group, source) == ("DatabaseSecurityGroup", "ProxySecurityGroup")
        port = 443 if group == "EndpointSecurityGroup" else deployment.text({"Ref": "DatabasePort"})
        assert rule["IpProtocol"] == "tcp"
        assert [deployment.text(rule[end]) for end in ("FromPort", "ToPort")] == [port, port]
    for name, function in deployment.of("AWS::Lambda::Function").items():
        if name not in OUTSIDE:
            assert deployment.text(function["VpcConfig"]["SecurityGroupIds"]) == [functions]


def test_whatever_is_in_a_vpc_is_in_the_one_of_the_deployment(deployment: Deployment) -> None:
    vpc = deployment.text({"Ref": "VpcId"}) or "Vpc"
    subnets = ["SubnetA", "SubnetB"] if vpc == "Vpc" else GIVEN_VPC["SubnetIds"].split(",")
    for properties in deployment.of("AWS::EC2::SecurityGroup", "AWS::EC2::VPCEndpoint").values():
        assert deployment.text(properties["VpcId"]) == vpc
    inside = {name: each for name, each in deployment.of("AWS::Lambda::Function").items() if name not in OUTSIDE}
    assert not any("VpcConfig" in deployment[name] for name in OUTSIDE & deployment.resources.keys())
    placed = [each["VpcConfig"]["SubnetIds"] for each in inside.values()]
    placed += [each["SubnetIds"] for each in deployment.of("AWS::RDS::DBSubnetGroup").values()]
    placed += [each["VpcSubnetIds"] for each in deployment.of("AWS::RDS::DBProxy").values()]
    interfaces = [e for e in deployment.of("AWS::EC2::VPCEndpoint").values() if e["VpcEndpointType"] == "Interface"]
    placed += [each["SubnetIds"] for each in interfaces]
    for each in placed:
        assert deployment.text(each) == subnets


def test_functions_reach_https_and_the_database_and_nothing_else() -> None:
    group = Deployment()["FunctionSecurityGroup"]
    ports = {Deployment().text(rule["FromPort"]) for rule in group["SecurityGroupEgress"]}
    assert ports == {443, 5432}
    for rule in group["SecurityGroupEgress"]:
        assert (rule["IpProtocol"], rule["FromPort"]) == ("tcp", rule["ToPort"])


def test_database_and_endpoints_reach_nothing(deployment: Deployment) -> None:
    for name in {"DatabaseSecurityGroup", "EndpointSecurityGroup"} & deployment.resources.keys():
        (rule,) = deployment[name]["SecurityGroupEgress"]
        assert rule["CidrIp"] == "127.0.0.1/32"


def services(deployment: Deployment) -> set[str]:
    """What there are endpoints for."""
    endpoints = deployment.of("AWS::EC2::VPCEndpoint").values()
    return {deployment.text(each["ServiceName"]).rpartition(".")[2] for each in endpoints}


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        (({},), {"s3", "sqs", "lambda", "secretsmanager"}),
        (({"SqsEndpoint": "no"},), {"s3", "lambda", "secretsmanager"}),
        (({"LambdaEndpoint": "no"},), {"s3", "sqs", "secretsmanager"}),
        (({"SecretsManagerEndpoint": "no"},), {"s3", "sqs", "lambda"}),
        ((GIVEN_VPC,), set()),
        ((GIVEN_VPC, GIVEN_ROUTES), {"s3"}),
        ((GIVEN_VPC, {"SqsEndpoint": "yes"}), {"sqs"}),
        ((GIVEN_VPC, {"LambdaEndpoint": "yes"}), {"lambda"}),
        ((GIVEN_VPC, {"SecretsManagerEndpoint": "yes"}), {"secretsmanager"}),
        ((GIVEN_VPC, GIVEN_DATABASE, {"SecretsManagerEndpoint": "yes"}), set()),
    ],
)
def test_endpoints_are_made_for_a_new_vpc_and_where_they_are_asked_for(
    parameters: tuple[dict[str, str], ...], expected: set[str]
) -> None:
    assert services(Deployment(*parameters)) == expected


def test_endpoint_lets_through_what_the_functions_need(deployment: Deployment) -> None:
    allowed = {
        "s3": ("s3:PutObject", "arn:aws:s3:::cloudformation-custom-resource-response-*/*"),
        "sqs": ("sqs:SendMessage", "arn:aws:sqs:us-east-1:123456789012:RunQueue"),
        "lambda": ("lambda:InvokeFunction", "arn:aws:lambda:us-east-1:123456789012:function:loop-step-*"),
        "secretsmanager": (
            "secretsmanager:GetSecretValue",
            "arn:aws:secretsmanager:us-east-1:123456789012:secret:rds!cluster-1",
        ),
    }
    for endpoint in deployment.of("AWS::EC2::VPCEndpoint").values():
        service = deployment.text(endpoint["ServiceName"]).rpartition(".")[2]
        if "PolicyDocument" not in endpoint:
            assert service == "s3", "of a given VPC, where others go to S3 through it"
            assert deployment.text({"Ref": "VpcId"})
            continue
        (statement,) = deployment.text(endpoint["PolicyDocument"])["Statement"]
        assert (statement["Action"], statement["Resource"]) == allowed[service]


def test_database_is_encrypted_signed_in_to_with_iam_and_kept(deployment: Deployment) -> None:
    for name, cluster in deployment.of("AWS::RDS::DBCluster").items():
        assert cluster["StorageEncrypted"] is True
        assert cluster["EnableIAMDatabaseAuthentication"] is True
        assert cluster["ManageMasterUserPassword"] is True
        assert "MasterUserPassword" not in cluster
        assert deployment.text(cluster["DeletionProtection"]) == "true"
        assert deployment.text(cluster["BackupRetentionPeriod"]) == 7
        assert cluster["CopyTagsToSnapshot"] is True
        assert cluster["EnableCloudwatchLogsExports"] == ["postgresql"]
        resource = deployment.resources[name]
        assert (resource["DeletionPolicy"], resource["UpdateReplacePolicy"]) == ("Snapshot", "Snapshot")
        parameters = deployment[cluster["DBClusterParameterGroupName"]["Ref"]]
        assert parameters["Parameters"]["rds.force_ssl"] == "1"
        assert deployment.text(parameters["Family"]) == "aurora-postgresql17"


def test_existing_database_gets_a_rule_where_its_group_is_named_and_nothing_else() -> None:
    made = {"AWS::RDS::DBCluster", "AWS::RDS::DBInstance", "AWS::RDS::DBSubnetGroup", "AWS::RDS::DBProxy"}
    for given, rules in ((GIVEN_DATABASE, 0), (OPENED_DATABASE, 1)):
        deployment = Deployment(GIVEN_VPC, GIVEN_GROUP, given)
        assert not deployment.of(*made)
        assert len(deployment.of("AWS::EC2::SecurityGroupIngress")) == rules


def test_proxy_wants_tls_and_iam_and_gives_up_before_the_functions_do() -> None:
    deployment = Deployment(PROXY)
    (proxy,) = deployment.of("AWS::RDS::DBProxy").values()
    assert (proxy["RequireTLS"], proxy["DefaultAuthScheme"], "Auth" in proxy) == (True, "IAM_AUTH", False)
    name = deployment.text(proxy["DBProxyName"])
    assert re.fullmatch(r"[a-z](-?[a-z0-9])*", name), "RDS takes no two hyphens in a row, and none at the end"
    assert "AWS::StackName" not in json.dumps(proxy["DBProxyName"]), "it may have 128 characters, this one 63"
    (targets,) = deployment.of("AWS::RDS::DBProxyTargetGroup").values()
    assert targets["ConnectionPoolConfigurationInfo"]["ConnectionBorrowTimeout"] < 10, "STATEMENT_TIMEOUT_SECONDS"


def test_queues_and_logs_are_encrypted_and_logs_end(deployment: Deployment) -> None:
    key = deployment.text({"Ref": "KmsKeyArn"})
    for queue in deployment.of("AWS::SQS::Queue").values():
        assert queue.get("SqsManagedSseEnabled") is (None if key else True)
        assert queue.get("KmsMasterKeyId") == ({"Ref": "KmsKeyArn"} if key else None)
    for group in deployment.of("AWS::Logs::LogGroup").values():
        assert deployment.text(group["RetentionInDays"]) == 30


def test_everything_that_keeps_data_uses_the_key_that_is_given() -> None:
    deployment = Deployment(KEY)
    keyed = {name for name, each in deployment.resources.items() if '"Ref": "KmsKeyArn"' in json.dumps(each)}
    kept = deployment.of("AWS::RDS::DBCluster", "AWS::SQS::Queue", "AWS::Logs::LogGroup", "AWS::Lambda::Function")
    assert keyed == kept.keys() | {"LedgerPolicy", "MigrateRole"}
    assert deployment["DatabaseCluster"]["MasterUserSecret"] == {"KmsKeyId": {"Ref": "KmsKeyArn"}}
