"""Fixtures: the developer's credentials, an API, a console in front of it, a browser that was let in."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tests.console.browser import Browser, console_of
from tests.console.signed_api import KEY, REGION, SECRET, SESSION, Api, api_on

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module", autouse=True)
def credentials(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The developer's, and nothing else of this machine's."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            patch.delenv(name)
        for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
            patch.setenv(name, str(tmp_path_factory.getbasetemp() / "none"))
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        patch.setenv("AWS_REGION", REGION)
        patch.setenv("AWS_ACCESS_KEY_ID", KEY)
        patch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
        patch.setenv("AWS_SESSION_TOKEN", SESSION)
        yield


@pytest.fixture(scope="module")
def shared_api() -> Iterator[Api]:
    with api_on() as api:
        yield api


@pytest.fixture(scope="module")
def shared_browser(shared_api: Api) -> Iterator[Browser]:
    with console_of(shared_api.url) as browser:
        yield browser


@pytest.fixture
def api(shared_api: Api) -> Api:
    """An API that was asked nothing yet and says yes."""
    vars(shared_api).update(vars(Api(shared_api.url)))
    return shared_api


@pytest.fixture
def browser(shared_browser: Browser, api: Api) -> Browser:
    return shared_browser
