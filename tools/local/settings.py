"""What the environment says about the local stack, and what of it the functions get to see."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tools.local.intrinsics import REGION, secret_arn

if TYPE_CHECKING:
    from collections.abc import Mapping

ROOT: Final = Path(__file__).resolve().parents[2]
DEFAULT_PORT: Final = 3000

PASSWORD_IN_URL: Final = {"DATABASE_AUTH": "", "MASTER_SECRET_ARN": ""}
"""What functions get with a DATABASE_URL of ours, whose password no AWS service keeps."""

_PASSED: Final = frozenset(
    {
        "HOME", "LANG", "LC_ALL", "LC_CTYPE", "LD_LIBRARY_PATH", "PATH", "PYTHONDONTWRITEBYTECODE",
        "SSL_CERT_DIR", "SSL_CERT_FILE", "TMPDIR", "USER",
    }
)  # fmt: skip
_PASSED_PREFIXES: Final = ("AWS_ENDPOINT_URL", "COVERAGE_PROCESS_")
_CREDENTIALS: Final = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
_SECRETS: Final = {"GITHUB_TOKEN": "GithubSecretArn", "GITHUB_WEBHOOK_SECRET": "GithubWebhookSecretArn"}
"""Variables with a secret's text, and the parameter that has its ARN."""

_PARAMETERS: Final = {
    "GITHUB_API_URL": "GithubApiUrl",
    "GITHUB_ENVIRONMENT": "GithubEnvironment",
    "GITHUB_MERGE_METHOD": "GithubMergeMethod",
    "GITHUB_REPOSITORIES": "GithubRepositories",
}
"""Variables that stand for parameters of the template."""

_CALLED_SERVICES: Final = ("LAMBDA", "SECRETS_MANAGER", "SQS")


class SettingsError(ValueError):
    """A variable of the environment cannot be used; the message names it."""


@dataclass(frozen=True, slots=True)
class LocalSettings:
    """The documented variables. No ``database_url`` means the embedded server, no ``port`` the command's default."""

    database_url: str | None
    port: int | None
    loops: Path
    steps: Path
    trust_actor_header: str
    secrets: Mapping[str, str]
    """Texts of secrets by name."""
    parameters: Mapping[str, str]
    """Of the template, where they are not its defaults."""

    @classmethod
    def from_environment(cls, environment: Mapping[str, str], root: Path) -> LocalSettings:
        """Read them; an empty variable counts as none."""
        loops = Path(environment.get("LOOPS_DIR") or root / "loops").absolute()
        if not loops.is_dir():
            raise SettingsError(f"LOOPS_DIR={loops} is not a folder")
        given_steps = environment.get("STEPS_DIR")
        steps = Path(given_steps or root / "tools" / "steps").absolute()
        if given_steps and not steps.is_dir():
            raise SettingsError(f"STEPS_DIR={steps} is not a folder")
        return cls(
            database_url=environment.get("DATABASE_URL") or None,
            port=read_port(environment),
            loops=loops,
            steps=steps,
            trust_actor_header=environment.get("TRUST_ACTOR_HEADER") or "1",
            secrets={name: environment[name] for name in _SECRETS if environment.get(name)},
            parameters={of: secret_arn(name) for name, of in _SECRETS.items() if environment.get(name)}
            | {of: environment[name] for name, of in _PARAMETERS.items() if environment.get(name)},
        )


def read_port(environment: Mapping[str, str]) -> int | None:
    """The port that PORT names; None where it names none. Raises SettingsError."""
    text = environment.get("PORT")
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and int(text) < 1 << 16):
        raise SettingsError(f"PORT={text} is not a port: a number from 1 to 65535, or 0 for any free one")
    return int(text)


def functions_environment(environment: Mapping[str, str], gateway_url: str) -> dict[str, str]:
    """What a function inherits from us: enough to run, and where AWS is. Credentials are made up unless there are some.

    Everything else stays out, so that a function that works here does not rely on a variable that Lambda lacks.
    """
    passed = {
        name: value
        for name, value in environment.items()
        if name in _PASSED or name in _CREDENTIALS or name.startswith(_PASSED_PREFIXES)
    }
    region = environment.get("AWS_REGION") or environment.get("AWS_DEFAULT_REGION") or REGION
    passed |= {"AWS_REGION": region, "AWS_DEFAULT_REGION": region, "AWS_EC2_METADATA_DISABLED": "true", "TZ": ":UTC"}
    if not passed.get("AWS_ACCESS_KEY_ID"):
        passed |= {"AWS_ACCESS_KEY_ID": "local", "AWS_SECRET_ACCESS_KEY": "local"}
    if "AWS_ENDPOINT_URL" not in passed:
        for service in _CALLED_SERVICES:
            passed.setdefault(f"AWS_ENDPOINT_URL_{service}", gateway_url)
    return passed
