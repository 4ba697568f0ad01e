"""Loop runner: runs the next step of an issue and keeps the record, the run, in PostgreSQL."""
