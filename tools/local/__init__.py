"""The local stack: PostgreSQL, Lambda and API Gateway without Docker or AWS. ``python -m tools.local`` explains."""
