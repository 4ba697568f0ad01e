"""Owns the services of AWS that a built function may call: Secrets Manager and SQS, as the local stack has them."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Self

from tests.conftest import ROOT
from tools.local.http_api import Request
from tools.local.intrinsics import ACCOUNT, REGION
from tools.local.queues import make_queues
from tools.local.secrets_api import SecretsApi, is_secrets
from tools.local.sqs_api import SqsApi
from tools.local.template import load_queues

if TYPE_CHECKING:
    from collections.abc import Mapping


class Services:
    """A context manager: what is sent stays in ``queues``; ``environment`` leads a function here."""

    def __init__(self, secrets: Mapping[str, str]) -> None:
        self.queues = make_queues(load_queues(ROOT / "template.yaml"))
        sqs, secrets_api = SqsApi(self.queues), SecretsApi(secrets)

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body, target = self.rfile.read(int(self.headers["content-length"])), self.headers["x-amz-target"]
                api = secrets_api if is_secrets(target) else sqs
                answer = api.answer(Request("POST", "/", "", (), body), target)
                self.send_response(answer.status)
                for name, value in (*answer.headers, ("content-length", str(len(answer.body)))):
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(answer.body)

            def log_message(self, format: str, *args: object) -> None: ...  # noqa: A002

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    @property
    def environment(self) -> dict[str, str]:
        """What a function must be given to call these and no others."""
        credentials = dict.fromkeys(("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"), "local")
        return {"AWS_DEFAULT_REGION": REGION, "AWS_ENDPOINT_URL": self.url, **credentials}

    @property
    def queue_urls(self) -> dict[str, str]:
        """By the queue's logical id."""
        return {name: f"{self.url}/{ACCOUNT}/{name}" for name in self.queues}

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._server.shutdown()
        self._server.server_close()
