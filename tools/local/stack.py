"""The stack as one object: database, workers and gateway, started and stopped together.

with Stack(port=0) as stack:
    stack.url, stack.database_url, stack.invoke("MigrateFunction", {"action": "verify"})
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import tempfile
import threading
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final, Self

import uvicorn

from tools.local.client import request
from tools.local.deliveries import deliver_all
from tools.local.gateway import Gateway
from tools.local.intrinsics import ACCOUNT
from tools.local.postgres import Server
from tools.local.queues import make_queues
from tools.local.roles import app_url
from tools.local.scheduler import run_schedules
from tools.local.settings import DEFAULT_PORT, PASSWORD_IN_URL, ROOT, LocalSettings, functions_environment
from tools.local.steps import step_functions
from tools.local.template import load_functions, load_queues
from tools.local.workers import DEFAULT_COUNT, Workers

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Coroutine, Iterable, Mapping

    from tools.local.template import Function

_HOST: Final = "127.0.0.1"
_MIGRATE: Final = "MigrateFunction"
_LEAVE_SECONDS: Final = 3.0


class StackError(RuntimeError):
    """The stack cannot start, or a function that it needs failed; the message says why."""


def _silent(_message: str) -> None: ...


class Stack:
    """Serves the template's functions on ``http://127.0.0.1:PORT`` from ``__enter__`` to ``__exit__``.

    Arguments win over the environment (settings.py). ``port`` 0 is any free one. ``data_folder`` keeps the embedded
    server's data, ``world_folder`` what step functions take for the outside world; ``log_file`` is appended what
    functions print. ``timeouts`` (seconds, by name) replace those of functions; the ``throttled`` ones have no free
    concurrency for Lambda's Invoke call. ``progress`` hears of long steps, ``on_access`` of requests and of messages
    that fail, both from any thread.
    """

    def __init__(
        self,
        *,
        root: Path = ROOT,
        port: int | None = None,
        database_url: str | None = None,
        data_folder: Path | None = None,
        world_folder: Path | None = None,
        log_file: Path | None = None,
        timeouts: Mapping[str, float] | None = None,
        throttled: Collection[str] = (),
        workers_per_function: int = DEFAULT_COUNT,
        environment: Mapping[str, str] | None = None,
        progress: Callable[[str], None] = _silent,
        on_access: Callable[[str], None] | None = None,
    ) -> None:
        self._root = root
        self._environment = os.environ if environment is None else environment
        self._settings = LocalSettings.from_environment(self._environment, root)
        chosen = self._settings.port if port is None else port
        self._port = DEFAULT_PORT if chosen is None else chosen
        self._given_database_url = database_url or self._settings.database_url
        self._data_folder = data_folder
        self._world_folder = world_folder
        self._log_file = log_file
        self._timeouts = timeouts or {}
        self._throttled = throttled
        self._workers_per_function = workers_per_function
        self._progress = progress
        self._on_access = on_access
        self._workers: dict[str, Workers] = {}
        self._cleanup = contextlib.ExitStack()
        self.url = ""
        """Base URL of the API, of Lambda's Invoke call and of SQS."""
        self.database_url = ""
        """libpq URI of the schema's owner; on the embedded server the functions use loop_app's."""
        self._app_url = ""
        self.server: Server | None = None
        """The embedded server, where no database was given."""
        self.functions: Mapping[str, Function] = {}
        """The template's functions by logical id."""
        self.secrets = dict(self._settings.secrets)
        """What functions read from Secrets Manager, by the secret's name; another text is what rotates it."""
        self.world = Path()
        """What step functions get as WORLD_DIR."""

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as started:
            listener = started.enter_context(listen(self._port))
            self.url = f"http://{_HOST}:{listener.getsockname()[1]}"
            if not self._given_database_url:
                self.server = started.enter_context(self._server())
            self.database_url = self._given_database_url or (self.server.url if self.server else "")
            self._app_url = self.database_url if self._given_database_url else app_url(self.database_url)
            self._serve(listener, started)
            self._progress("applying migrations")
            self.invoke(_MIGRATE, {"action": "apply"})
            self._cleanup = started.pop_all()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._cleanup.close()

    def invoke(self, function: str, event: object) -> Any:
        """Call a function through Lambda's Invoke API; StackError with its reason when it fails."""
        reply = request(self.url, "POST", f"/2015-03-31/functions/{function}/invocations", event)
        answer = reply.json()
        if reply.status != 200:
            raise StackError(f"{function}: {answer.get('Message', answer)}")
        if "x-amz-function-error" in reply.headers:
            raise StackError(f"{function} failed: {answer.get('errorType')}: {answer.get('errorMessage')}")
        return answer

    def busy_pids(self, function: str) -> list[int]:
        """Worker processes of a function that are within a call now."""
        return self._workers[function].busy_pids()

    # ------------------------------------------------------------------------------------------------ start

    def _with_database(self, function: str) -> dict[str, str]:
        """What functions with a database get in the place of what the template says; migrate owns the schema."""
        return {
            **PASSWORD_IN_URL,
            "DATABASE_URL": self.database_url if function == _MIGRATE else self._app_url,
            "LOOPS_DIR": str(self._settings.loops),
            "MIGRATIONS_DIR": str(self._root / "migrations"),
            "OPENAPI_FILE": str(self._root / "docs" / "openapi.json"),
            "TRUST_ACTOR_HEADER": self._settings.trust_actor_header,
        }

    def _server(self) -> Server:
        return Server(folder=self._data_folder, progress=self._progress)

    def _serve(self, listener: socket.socket, started: contextlib.ExitStack) -> None:
        """Start gateway and workers in a thread with an event loop, which ``started`` ends again."""
        template = self._root / "template.yaml"
        queues = make_queues(load_queues(template))
        urls = {name: f"{self.url}/{ACCOUNT}/{name}" for name in queues}
        self.functions = load_functions(template, urls | {"StepFunctionPrefix": "", **self._settings.parameters})
        steps = step_functions(self._settings.steps, self._settings.loops)
        if both := steps.keys() & self.functions.keys():
            raise StackError(f"{self._settings.steps}: {min(both)} is the name of a function of template.yaml")
        log = started.enter_context(_open_log(self._log_file)) if self._log_file else None
        inherited = functions_environment(self._environment, self.url)
        environments = {
            name: {
                **inherited,
                **function.environment,
                **(self._with_database(name) if "DATABASE_URL" in function.environment else {}),
            }
            for name, function in self.functions.items()
        }
        self.world = self._world_folder or Path(
            started.enter_context(tempfile.TemporaryDirectory(prefix="loop-world-"))
        )
        self.world.mkdir(parents=True, exist_ok=True)
        for_steps = {**inherited, "LOOP_API_URL": self.url, "WORLD_DIR": str(self.world)}
        environments |= dict.fromkeys(steps, for_steps)
        self._workers = {
            name: Workers(
                function,
                environment=environments[name],
                count=self._workers_per_function,
                timeout=self._timeouts.get(name),
                log=log,
            )
            for name, function in {**self.functions, **steps}.items()
        }
        invoked_as = {each.invoked_as: name for name, each in self.functions.items() if each.invoked_as}
        if both := steps.keys() & invoked_as.keys():
            raise StackError(f"{self._settings.steps}: {min(both)} is what template.yaml calls {invoked_as[min(both)]}")
        self._workers |= {alias: self._workers[name] for alias, name in invoked_as.items()}
        routes = [route for function in self.functions.values() for route in function.routes]
        gateway = Gateway(
            self._workers, routes, queues, self.secrets, throttled=self._throttled, on_access=self._on_access
        )
        background = [
            *(self._workers[name].prewarm() for name in self.functions),
            run_schedules(self.functions, self._workers),
            deliver_all(
                self.functions,
                self._workers,
                queues,
                at_once=self._workers_per_function,
                report=self._on_access or _silent,
            ),
        ]
        thread = _LoopThread(gateway, background, self._workers, listener)
        started.callback(thread.stop)
        thread.start()


class _LoopThread(threading.Thread):
    """Runs the gateway's event loop, and ``background`` on it.

    Every worker is started in this thread, which outlives them all.
    """

    def __init__(
        self,
        gateway: Gateway,
        background: Iterable[Coroutine[Any, Any, None]],
        workers: Mapping[str, Workers],
        listener: socket.socket,
    ) -> None:
        super().__init__(name="local stack", daemon=True)
        self._gateway = gateway
        self._background = background
        self._workers = workers
        self._listener = listener
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping = asyncio.Event()
        self._has_started = threading.Event()

    def start(self) -> None:
        super().start()
        self._has_started.wait()

    def stop(self) -> None:
        """End calls that are still running after a moment, then every worker, then the thread."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._stopping.set)
        self.join()

    def run(self) -> None:
        asyncio.run(self._main())

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._has_started.set()
        config = uvicorn.Config(
            self._gateway,
            access_log=False,
            http="h11",
            interface="asgi3",
            lifespan="off",
            log_config=None,
            loop="asyncio",
            server_header=False,
            ws="none",
        )
        server = uvicorn.Server(config)
        serving = asyncio.create_task(server.serve(sockets=[self._listener]))
        others = [asyncio.create_task(each) for each in self._background]
        await self._stopping.wait()
        server.should_exit = True
        await asyncio.wait({serving}, timeout=_LEAVE_SECONDS)
        for task in others:
            task.cancel()
        for workers in self._workers.values():
            await workers.close()
        await serving


def listen(port: int) -> socket.socket:
    """Take the port at once, so that what is started afterwards knows it. Raises StackError."""
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((_HOST, port))
        listener.listen()  # bound alone, a second stack could bind as well
    except OSError as error:
        listener.close()
        if error.errno not in {errno.EADDRINUSE, errno.EACCES}:
            raise
        reason = "is in use" if error.errno == errno.EADDRINUSE else "is not ours to use"
        raise StackError(
            f"port {port} {reason}: choose another one, PORT={port % 60000 + 1000 or 0} for example"
        ) from error
    return listener


def _open_log(path: Path) -> IO[bytes]:
    path.parent.mkdir(parents=True, exist_ok=True)
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab", buffering=0)
