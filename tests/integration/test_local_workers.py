"""Workers are real processes that behave as Lambda's execution environments."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tools.local.settings import functions_environment
from tools.local.template import Function
from tools.local.workers import Outcome, Workers

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine

HANDLER = """
    import os, signal, sys, time
    from pathlib import Path

    def handler(event, context):
        match event["do"]:
            case "echo":
                return {"event": event, "pid": os.getpid()}
            case "context":
                return {
                    "requestId": context.aws_request_id,
                    "function": [context.function_name, context.function_version, context.invoked_function_arn],
                    "memory": context.memory_limit_in_mb,
                    "logs": [context.log_group_name, context.log_stream_name],
                    "remaining": context.get_remaining_time_in_millis(),
                }
            case "environment":
                return dict(os.environ)
            case "raise":
                raise LookupError("no such thing")
            case "exit":
                sys.exit(event["status"])
            case "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            case "sleep":
                print("sleeping", flush=True)
                time.sleep(600)
            case "set":
                return {1, 2}
            case "big":
                return "x" * 7_000_000
            case "append":
                with Path(event["file"]).open("a") as file:
                    file.write(f"{event['number']} ")
            case "meet":
                Path(event["mine"]).touch()
                while not Path(event["other"]).exists():
                    time.sleep(0.01)
"""


def function(folder: Path, code: str = HANDLER, timeout: int = 30) -> Function:
    folder.mkdir(exist_ok=True)
    (folder / "app.py").write_text(textwrap.dedent(code))
    return Function("Fun", "app", "handler", folder, (), timeout, 256, {}, (), ())


@asynccontextmanager
async def workers_of(of: Function, **options: Any) -> AsyncIterator[Workers]:
    workers = Workers(of, environment={"PATH": os.environ["PATH"], "MINE": "1"}, **options)
    try:
        yield workers
    finally:
        await workers.close()


def run(scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(scenario())


async def do(workers: Workers, what: str, **event: Any) -> Outcome:
    return await workers.invoke(json.dumps({"do": what, **event}).encode(), "request-1")


async def pid_of(workers: Workers) -> int:
    pid: int = json.loads((await do(workers, "echo")).payload)["pid"]
    return pid


def error_of(outcome: Outcome) -> tuple[str, str]:
    assert outcome.failed
    error = json.loads(outcome.payload)
    return error["errorType"], error["errorMessage"]


def ends(pid: int) -> bool:
    for _ in range(500):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return True
        if state == "Z":  # waits for a parent that is not ours to be
            return True
        time.sleep(0.02)
    return False


def test_result_comes_back_from_a_process_of_its_own(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with workers_of(function(tmp_path)) as workers:
            outcome = await do(workers, "echo", text="é\u2028")
            answer = json.loads(outcome.payload)
            assert not outcome.failed
            assert answer["event"]["text"] == "é\u2028"
            assert answer["pid"] != os.getpid()
            assert await pid_of(workers) == answer["pid"], "a warm worker is used again"
            assert workers.busy_pids() == []

    run(scenario)


def test_context_is_lambdas(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with workers_of(function(tmp_path)) as workers:
            context = json.loads((await do(workers, "context")).payload)
            assert context["requestId"] == "request-1"
            assert context["function"] == ["Fun", "$LATEST", "arn:aws:lambda:us-east-1:123456789012:function:Fun"]
            assert context["memory"] == "256"
            assert context["logs"][0] == "/aws/lambda/Fun"
            assert "[$LATEST]" in context["logs"][1]
            assert 0 < context["remaining"] <= 30_000

    run(scenario)


def test_environment_is_the_given_one_and_lambdas(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOT_FOR_FUNCTIONS", "1")

    async def scenario() -> None:
        async with workers_of(function(tmp_path)) as workers:
            environment = json.loads((await do(workers, "environment")).payload)
            assert environment["MINE"] == "1"
            assert environment["AWS_LAMBDA_FUNCTION_NAME"] == "Fun"
            assert environment["PYTHONPATH"] == str(tmp_path)
            assert "NOT_FOR_FUNCTIONS" not in environment

    run(scenario)


def test_exception_is_an_error_object_and_the_process_lives_on(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with workers_of(function(tmp_path)) as workers:
            pid = await pid_of(workers)
            outcome = await do(workers, "raise")
            error = json.loads(outcome.payload)
            assert error_of(outcome) == ("LookupError", "no such thing")
            assert error["requestId"] == "request-1"
            assert 'raise LookupError("no such thing")' in error["stackTrace"][-1]
            assert await pid_of(workers) == pid

    run(scenario)


def test_import_error_is_reported_and_the_next_call_imports_again(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with workers_of(function(tmp_path, "import no_such_module")) as workers:
            await workers.prewarm()
            for _ in range(2):
                name, message = error_of(await do(workers, "echo"))
                assert name == "Runtime.ImportModuleError"
                assert message == "Unable to import module 'app': No module named 'no_such_module'"
            function(tmp_path)
            assert await pid_of(workers)

    run(scenario)


@pytest.mark.parametrize(
    ("code", "name"),
    [
        ("def handler(:", "Runtime.UserCodeSyntaxError"),
        ("handle = 1", "Runtime.HandlerNotFound"),
        ("1 / 0", "ZeroDivisionError"),
        ("import sys; sys.exit(3)", "Runtime.ExitError"),
    ],
)
def test_module_that_cannot_serve_has_lambdas_error(tmp_path: Path, code: str, name: str) -> None:
    async def scenario() -> None:
        async with workers_of(function(tmp_path, code)) as workers:
            assert error_of(await do(workers, "echo"))[0] == name

    run(scenario)


@pytest.mark.parametrize(
    ("event", "message"),
    [
        ({"do": "exit", "status": 3}, "RequestId: request-1 Error: Runtime exited with error: exit status 3"),
        ({"do": "exit", "status": 0}, "RequestId: request-1 Error: Runtime exited without providing a reason"),
        ({"do": "kill"}, "RequestId: request-1 Error: Runtime exited with error: signal: killed"),
    ],
)
def test_process_that_ends_is_an_exit_error_and_is_replaced(
    tmp_path: Path, event: dict[str, Any], message: str
) -> None:
    async def scenario() -> None:
        async with workers_of(function(tmp_path)) as workers:
            pid = await pid_of(workers)
            outcome = await workers.invoke(json.dumps(event).encode(), "request-1")
            assert error_of(outcome) == ("Runtime.ExitError", message)
            assert await pid_of(workers) != pid

    run(scenario)


def test_timeout_kills_the_process(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with workers_of(function(tmp_path), timeout=0.5) as workers:
            await workers.prewarm()
            (pid,) = workers.pids()
            message = "RequestId: request-1 Error: Task timed out after 0.50 seconds"
            assert error_of(await do(workers, "sleep")) == ("Sandbox.Timedout", message)
            assert ends(pid)
            assert await pid_of(workers) != pid

    run(scenario)


@pytest.mark.parametrize(("what", "name"), [("set", "Runtime.MarshalError"), ("big", "Function.ResponseSizeTooLarge")])
def test_result_that_lambda_would_refuse_is_an_error(tmp_path: Path, what: str, name: str) -> None:
    async def scenario() -> None:
        async with workers_of(function(tmp_path)) as workers:
            assert error_of(await do(workers, what))[0] == name

    run(scenario)


def test_calls_wait_in_their_order_for_the_only_worker(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with workers_of(function(tmp_path), count=1) as workers:
            file = str(tmp_path / "order")
            await asyncio.gather(*(do(workers, "append", file=file, number=number) for number in range(8)))
            assert Path(file).read_text() == "0 1 2 3 4 5 6 7 "
            assert len(workers.pids()) == 1

    run(scenario)


def test_as_many_calls_run_at_once_as_there_are_workers(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with workers_of(function(tmp_path), count=2) as workers:
            one, two = str(tmp_path / "one"), str(tmp_path / "two")
            meetings = await asyncio.gather(
                do(workers, "meet", mine=one, other=two), do(workers, "meet", mine=two, other=one)
            )
            assert [meeting.failed for meeting in meetings] == [False, False]

    run(scenario)


def test_busy_worker_can_be_found_and_killed(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with workers_of(function(tmp_path)) as workers:
            call = asyncio.create_task(do(workers, "sleep"))
            while not workers.busy_pids():
                await asyncio.sleep(0.01)
            os.kill(workers.busy_pids()[0], signal.SIGKILL)
            assert error_of(await call)[0] == "Runtime.ExitError"
            assert workers.busy_pids() == []

    run(scenario)


def test_what_functions_print_goes_to_the_log(tmp_path: Path) -> None:
    async def scenario() -> None:
        with (tmp_path / "log").open("ab") as log:
            async with workers_of(function(tmp_path / "code", "def handler(e, c): print('hello')"), log=log) as workers:
                assert (await do(workers, "echo")).payload == b"null"

    run(scenario)
    assert (tmp_path / "log").read_text() == "hello\n"


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_workers_die_with_a_parent_that_is_killed_in_the_middle_of_a_call(tmp_path: Path) -> None:
    of = function(tmp_path)
    script = f"""
        import asyncio, os
        from pathlib import Path
        from tools.local.template import Function
        from tools.local.workers import Workers

        async def main():
            of = Function("Fun", "app", "handler", Path({str(of.code)!r}), (), 600, 256, {{}}, (), ())
            workers = Workers(of, environment={{"PATH": os.environ["PATH"]}})
            call = asyncio.create_task(workers.invoke(b'{{"do": "sleep"}}'))
            while not workers.busy_pids():
                await asyncio.sleep(0.01)
            print("pid", *workers.busy_pids(), flush=True)
            await call

        asyncio.run(main())
    """
    parent = subprocess.Popen([sys.executable, "-c", textwrap.dedent(script)], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    lines = {parent.stdout.readline() for _ in range(2)}
    pid = int(next(line for line in lines if line.startswith("pid")).split()[1])
    assert "sleeping\n" in lines, "within the handler"
    parent.kill()
    parent.wait()
    parent.stdout.close()
    assert ends(pid)


def test_functions_inherit_what_runs_them_and_where_aws_is() -> None:
    environment = functions_environment({"PATH": "/bin", "SECRET": "1", "AWS_PROFILE": "mine"}, "http://127.0.0.1:1")
    assert environment["PATH"] == "/bin"
    assert {"SECRET", "AWS_PROFILE"}.isdisjoint(environment)
    for service in ("LAMBDA", "SECRETS_MANAGER", "SQS"):
        assert environment[f"AWS_ENDPOINT_URL_{service}"] == "http://127.0.0.1:1"
    assert environment["AWS_ACCESS_KEY_ID"] == environment["AWS_SECRET_ACCESS_KEY"] == "local"


def test_aws_that_is_already_set_is_left_as_it_is() -> None:
    given = {
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_ENDPOINT_URL_SQS": "http://elsewhere",
        "AWS_REGION": "eu-central-1",
        "AWS_SECRET_ACCESS_KEY": "secret",
    }
    environment = functions_environment(given, "http://127.0.0.1:1")
    assert given.items() <= environment.items()
    assert environment["AWS_ENDPOINT_URL_LAMBDA"] == "http://127.0.0.1:1"
    assert environment["AWS_DEFAULT_REGION"] == "eu-central-1"
    everything = functions_environment({"AWS_ENDPOINT_URL": "http://elsewhere"}, "http://127.0.0.1:1")
    assert "AWS_ENDPOINT_URL_LAMBDA" not in everything
