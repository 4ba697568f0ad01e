"""``make console``: the run console on this machine, for a deployed API: calls are signed with one's credentials."""
