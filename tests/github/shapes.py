"""Owns the JSON of the fake GitHub's answers: the keys of GitHub's schemas that clients read. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.github.world import CheckRun, Deployment, DeploymentStatus, PullRequest, Repository, Review, Status

Json = dict[str, Any]


class Shapes:
    """Answers with links below ``api`` (the REST API) and ``web`` (what people see)."""

    def __init__(self, api: str, web: str) -> None:
        self.api, self.web = api, web

    def user(self, login: str | None) -> Json | None:
        """Null where the account was deleted."""
        if login is None:
            return None
        kind = "Bot" if login.endswith("[bot]") else "User"
        return {
            "login": login,
            "id": sum(login.encode()),
            "type": kind,
            "site_admin": False,
            "url": f"{self.api}/users/{login}",
            "html_url": f"{self.web}/{login}",
        }

    def repository(self, repository: Repository) -> Json:
        owner, _, name = repository.name.partition("/")
        return {
            "id": repository.id,
            "name": name,
            "full_name": repository.name,
            "owner": self.user(owner),
            "private": True,
            "default_branch": "main",
            "allow_merge_commit": "merge" in repository.methods,
            "allow_squash_merge": "squash" in repository.methods,
            "allow_rebase_merge": "rebase" in repository.methods,
            "url": f"{self.api}/repos/{repository.name}",
            "html_url": f"{self.web}/{repository.name}",
        }

    def pull(self, pull: PullRequest) -> Json:
        repository = self.repository(pull.repository)
        merged_by = pull.merges[-1].by if pull.merged else None
        return {
            "id": pull.number,
            "number": pull.number,
            "url": f"{repository['url']}/pulls/{pull.number}",
            "html_url": f"{repository['html_url']}/pull/{pull.number}",
            "state": "closed" if pull.closed or pull.merged else "open",
            "title": f"Pull request {pull.number}",
            "body": None,
            "user": self.user(pull.author),
            "draft": pull.draft,
            "merged": pull.merged,
            "merged_at": pull.merged_at,
            "merged_by": self.user(merged_by),
            "merge_commit_sha": pull.merge_commit,
            "mergeable": None if pull.merged else pull.mergeable,
            "mergeable_state": pull.mergeable_state,
            "head": {"ref": pull.branch, "sha": pull.head, "repo": repository},
            "base": {"ref": pull.base, "sha": pull.repository.branches[pull.base], "repo": repository},
        }

    def review(self, pull: PullRequest, review: Review) -> Json:
        url = f"{self.web}/{pull.repository.name}/pull/{pull.number}#pullrequestreview-{review.id}"
        shape = {
            "id": review.id,
            "user": self.user(review.user),
            "body": review.body,
            "state": review.state,
            "commit_id": review.commit_id,
            "author_association": review.association,
            "html_url": url,
            "pull_request_url": f"{self.api}/repos/{pull.repository.name}/pulls/{pull.number}",
        }
        return shape if review.state == "PENDING" else shape | {"submitted_at": review.submitted_at}

    def check_run(self, repository: Repository, sha: str, run: CheckRun) -> Json:
        return {
            "id": run.id,
            "name": run.name,
            "head_sha": sha,
            "status": run.status,
            "conclusion": run.conclusion,
            "started_at": run.at,
            "completed_at": run.at if run.status == "completed" else None,
            "app": {"id": sum(run.app.encode()), "slug": run.app, "name": run.app},
            "check_suite": {"id": sum(run.app.encode())},
            "pull_requests": [],
            "url": f"{self.api}/repos/{repository.name}/check-runs/{run.id}",
            "html_url": f"{self.web}/{repository.name}/runs/{run.id}",
        }

    def status(self, repository: Repository, sha: str, status: Status) -> Json:
        return {
            "id": status.id,
            "context": status.context,
            "state": status.state,
            "description": status.description or None,
            "target_url": None,
            "created_at": status.at,
            "updated_at": status.at,
            "creator": self.user("ci"),
            "url": f"{self.api}/repos/{repository.name}/statuses/{sha}",
        }

    def combined_status(self, repository: Repository, sha: str, page: list[Json], total: int) -> Json:
        """Of all the statuses; ``page`` are those on the page that was asked for. Without any it is pending."""
        states = {status.state for status in repository.latest_statuses(sha)}
        state = "failure" if states & {"failure", "error"} else "success" if states == {"success"} else "pending"
        return {
            "state": state,
            "sha": sha,
            "total_count": total,
            "statuses": page,
            "repository": self.repository(repository),
            "commit_url": f"{self.api}/repos/{repository.name}/commits/{sha}",
            "url": f"{self.api}/repos/{repository.name}/commits/{sha}/status",
        }

    def commit(self, repository: Repository, sha: str) -> Json:
        return {
            "sha": sha,
            "commit": {"message": "A change", "url": f"{self.api}/repos/{repository.name}/git/commits/{sha}"},
            "author": self.user("ann"),
            "committer": self.user("ann"),
            "parents": [],
            "url": f"{self.api}/repos/{repository.name}/commits/{sha}",
            "html_url": f"{self.web}/{repository.name}/commit/{sha}",
        }

    def branch(self, repository: Repository, name: str) -> Json:
        return {"name": name, "commit": self.commit(repository, repository.branches[name]), "protected": False}

    def deployment(self, repository: Repository, deployment: Deployment) -> Json:
        url = f"{self.api}/repos/{repository.name}/deployments/{deployment.id}"
        return {
            "id": deployment.id,
            "sha": deployment.sha,
            "ref": "main",
            "task": "deploy",
            "environment": deployment.environment,
            "description": None,
            "payload": {},
            "creator": self.user("ci"),
            "created_at": deployment.at,
            "updated_at": deployment.statuses[-1].at if deployment.statuses else deployment.at,
            "url": url,
            "statuses_url": f"{url}/statuses",
        }

    def deployment_status(self, repository: Repository, deployment: Deployment, status: DeploymentStatus) -> Json:
        url = f"{self.api}/repos/{repository.name}/deployments/{deployment.id}"
        return {
            "id": status.id,
            "state": status.state,
            "environment": deployment.environment,
            "description": "",
            "environment_url": status.url,
            "log_url": "",
            "target_url": "",
            "creator": self.user("ci"),
            "created_at": status.at,
            "updated_at": status.at,
            "deployment_url": url,
            "url": f"{url}/statuses/{status.id}",
        }
