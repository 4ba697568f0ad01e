"""Settings are what the environment says, and say what is missing."""

from __future__ import annotations

from pathlib import Path

import pytest

from loop_runner.errors import ConfigurationError
from loop_runner.settings import MAX_BODY_BYTES, MAX_FACTS_BYTES, REQUIRED_SCHEMA, Settings
from tests.conftest import MIGRATIONS

URL = {"DATABASE_URL": "postgresql://loop_app@db/loop"}


def test_the_database_is_all_that_must_be_given() -> None:
    assert Settings.from_environment(URL) == Settings(
        database_url=URL["DATABASE_URL"],
        loops_dir=Path("/opt/loops"),
        migrations_dir=Path("/opt/migrations"),
        actor_delegates=frozenset(),
        trust_actor_header=False,
    )


@pytest.mark.parametrize("environment", [{}, {"DATABASE_URL": ""}, {"LOOPS_DIR": "/x"}])
def test_a_missing_database_is_an_error_that_names_the_variable(environment: dict[str, str]) -> None:
    with pytest.raises(ConfigurationError, match="DATABASE_URL"):
        Settings.from_environment(environment)


def test_folders_are_taken_from_the_environment() -> None:
    settings = Settings.from_environment({**URL, "LOOPS_DIR": "/a", "MIGRATIONS_DIR": "b"})
    assert (settings.loops_dir, settings.migrations_dir) == (Path("/a"), Path("b"))


@pytest.mark.parametrize(
    ("text", "delegates"),
    [
        ("", set()),
        (" , ,", set()),
        ("arn:aws:iam::1:role/web", {"arn:aws:iam::1:role/web"}),
        (" arn:a , arn:b,arn:a", {"arn:a", "arn:b"}),
    ],
)
def test_delegates_and_actors_are_lists_with_commas(text: str, delegates: set[str]) -> None:
    assert Settings.from_environment({**URL, "ACTOR_DELEGATES": text}).actor_delegates == delegates
    assert Settings.from_environment({**URL, "ALLOWED_ACTORS": text}).allowed_actors == delegates


def test_a_url_with_a_password_is_connected_to_as_it_is() -> None:
    assert Settings.from_environment(URL).url_to_connect() == URL["DATABASE_URL"]
    assert Settings.from_environment({**URL, "DATABASE_AUTH": ""}).url_to_connect() == URL["DATABASE_URL"]


def test_where_iam_decides_the_url_to_connect_with_has_a_token(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION"):
        monkeypatch.setenv(name, "x")
    url = f"{URL['DATABASE_URL']}?sslmode=verify-full"
    settings = Settings.from_environment({"DATABASE_URL": url, "DATABASE_AUTH": "iam"})
    assert settings.url_to_connect().startswith("postgresql://loop_app:db%3A5432%2F%3FAction%3Dconnect%26DBUser%3D")
    assert settings.database_url == url


@pytest.mark.parametrize("text", ["IAM", "password", "1"])
def test_another_way_to_sign_in_is_an_error_that_names_the_variable(text: str) -> None:
    with pytest.raises(ConfigurationError, match="DATABASE_AUTH"):
        Settings.from_environment({**URL, "DATABASE_AUTH": text})


@pytest.mark.parametrize("text", ["1", "true", "TRUE", "True"])
def test_the_header_is_trusted_where_the_environment_says_so(text: str) -> None:
    assert Settings.from_environment({**URL, "TRUST_ACTOR_HEADER": text}).trust_actor_header


@pytest.mark.parametrize("text", ["", "0", "false", "no", "on", "2", " ", "truely"])
def test_the_header_is_not_trusted_for_any_other_word(text: str) -> None:
    assert not Settings.from_environment({**URL, "TRUST_ACTOR_HEADER": text}).trust_actor_header


def test_the_environment_of_the_process_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://elsewhere/x")
    assert Settings.from_environment().database_url == "postgresql://elsewhere/x"


def test_the_limits_are_those_of_the_contract() -> None:
    assert (MAX_BODY_BYTES, MAX_FACTS_BYTES) == (65_536, 262_144)


def test_the_code_needs_the_newest_migration_that_it_ships() -> None:
    assert max(int(path.name[:3]) for path in MIGRATIONS.glob("[0-9]*.sql")) == REQUIRED_SCHEMA
