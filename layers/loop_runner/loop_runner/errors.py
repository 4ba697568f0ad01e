"""Owns the taxonomy of errors: each has a stable code and the contract's HTTP status, mapped in one place (http)."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pydantic import JsonValue


class LoopError(Exception):
    """Something went wrong; the log has the details."""

    code: ClassVar[str] = "INTERNAL_ERROR"
    status: ClassVar[int] = 500

    def __init__(
        self,
        message: str | None = None,
        *,
        details: Mapping[str, JsonValue] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Take the class's docstring where no message is given; details and headers go to the caller as they are."""
        self.message = message or (self.__doc__ or "").strip()
        self.details = dict(details or {})
        self.headers = dict(headers or {})
        super().__init__(self.message)


class InvalidRequestError(LoopError):
    """The request is not of the contract's form."""

    code = "INVALID_REQUEST"
    status = 400


class UnauthorizedError(LoopError):
    """No identity: call with AWS SigV4 or a bearer token; locally, name yourself in the header x-afu9-sub."""

    code = "UNAUTHORIZED"
    status = 401


class ForbiddenError(LoopError):
    """The caller may not do this."""

    code = "FORBIDDEN"
    status = 403


class NotFoundError(LoopError):
    """There is nothing at this path: the API's paths are in docs/contracts/loop-api.v1.md."""

    code = "NOT_FOUND"
    status = 404


class IssueNotFoundError(LoopError):
    """The issue is not registered."""

    code = "ISSUE_NOT_FOUND"
    status = 404

    @classmethod
    def of(cls, issue_id: str) -> IssueNotFoundError:
        """The error that says which PUT to make."""
        return cls(
            f"issue {issue_id} is not registered; register it: "
            f'PUT /api/loop/issues/{issue_id} {{"loop":"issue-delivery"}}'
        )


class RunNotFoundError(LoopError):
    """There is no run with this id."""

    code = "RUN_NOT_FOUND"
    status = 404

    @classmethod
    def of(cls, run_id: object) -> RunNotFoundError:
        """The error that names it."""
        return cls(f"there is no run {run_id}")


class StepNotFoundError(LoopError):
    """There is no step with this id."""

    code = "STEP_NOT_FOUND"
    status = 404


class MethodNotAllowedError(LoopError):
    """The path is known, the method is not."""

    code = "METHOD_NOT_ALLOWED"
    status = 405


class LoopConflictError(LoopError):
    """Another run owns the issue."""

    code = "LOOP_CONFLICT"
    status = 409


class IssueExistsError(LoopError):
    """The issue is registered with another loop."""

    code = "ISSUE_EXISTS"
    status = 409


class IllegalTransitionError(LoopError):
    """A run or step does not go from its status to that one."""

    code = "ILLEGAL_TRANSITION"
    status = 409


class StepExistsError(LoopError):
    """The run has a step with this number already."""

    code = "STEP_EXISTS"
    status = 409


class RunFinishedError(LoopError):
    """The run has ended."""

    code = "RUN_FINISHED"
    status = 409

    @classmethod
    def of(cls, run_id: object, status: str) -> RunFinishedError:
        """The error that says how."""
        return cls(f"run {run_id} is {status}: nothing more can be done to it", details={"status": status})


class IssueFinishedError(LoopError):
    """The issue is in a final state of its loop."""

    code = "ISSUE_FINISHED"
    status = 409


class NoApprovalPendingError(LoopError):
    """The step that is next does not wait for a decision."""

    code = "NO_APPROVAL_PENDING"
    status = 409


class PreconditionRequiredError(LoopError):
    """If-Match must name the version of the issue that is decided on: the ETag of GET issue."""

    code = "PRECONDITION_REQUIRED"
    status = 428


class PreconditionFailedError(LoopError):
    """The issue has changed since: read it again and decide again."""

    code = "PRECONDITION_FAILED"
    status = 412

    @classmethod
    def of(cls, issue_id: str, version: int) -> PreconditionFailedError:
        """The error that names the version there is."""
        return cls(
            f"issue {issue_id} is at version {version}: read it again and decide again", details={"version": version}
        )


class IdempotencyKeyReusedError(LoopError):
    """The Idempotency-Key stands for another request of this issue: choose a new key."""

    code = "IDEMPOTENCY_KEY_REUSED"
    status = 422


class PayloadTooLargeError(LoopError):
    """The request is larger than the contract allows."""

    code = "PAYLOAD_TOO_LARGE"
    status = 413


class UnavailableError(LoopError):
    """The database is out of reach and nothing was changed: try again."""

    code = "UNAVAILABLE"
    status = 503

    def __init__(self, message: str | None = None, *, may_be_done: bool = False, retry_after_seconds: int = 1) -> None:
        """``may_be_done``: the statement was sent and its answer lost."""
        self.may_be_done = may_be_done
        if may_be_done:
            message = "The database was lost before it answered: look whether this call was done before you repeat it."
        super().__init__(message, headers={"retry-after": str(retry_after_seconds)})


class ConfigurationError(LoopError):
    """The deployment is not configured; the log says what is missing."""


class LoopDefinitionError(LoopError):
    """A loop file is not valid; the message names file, key and reason."""


class MigrationError(LoopError):
    """A migration was refused or failed; the message names the file."""


class MasterUserError(MigrationError):
    """The database's master user is not let in, or nobody says who it is."""


class SchemaIsNewerError(MigrationError):
    """A later release has been at work on this database."""
