"""Which region signatures are for: the one in the API's host, else what the AWS CLI would use."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tools.signing import Signer, SigningError

if TYPE_CHECKING:
    from pathlib import Path

API = "https://abc123.execute-api.eu-central-1.amazonaws.com"
OWN_DOMAIN = "https://loops.example.com"


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")


def region_of(url: str) -> str:
    headers = Signer(url).headers("GET", "/api/loop/runs", b"", {})
    return headers["authorization"].split("/")[2]


@pytest.mark.parametrize(
    ("variables", "region"),
    [
        ({"AWS_REGION": "us-east-1"}, "us-east-1"),
        ({"AWS_DEFAULT_REGION": "us-east-2"}, "us-east-2"),
        ({"AWS_REGION": "us-east-1", "AWS_DEFAULT_REGION": "us-east-2"}, "us-east-1"),
        ({"AWS_PROFILE": "other"}, "us-west-2"),
        ({}, "us-west-1"),
    ],
)
def test_region_is_what_the_aws_cli_would_use(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, variables: dict[str, str], region: str
) -> None:
    (tmp_path / "config").write_text("[default]\nregion = us-west-1\n[profile other]\nregion = us-west-2\n")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert region_of(OWN_DOMAIN) == region


def test_host_of_the_api_knows_better(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    assert region_of(API) == "eu-central-1"
    assert region_of(f"{API}/prod") == "eu-central-1"


def test_no_region_is_an_error_that_names_the_variable() -> None:
    with pytest.raises(SigningError, match="AWS_REGION"):
        Signer(OWN_DOMAIN)
