"""``make bench-scale``: what calls and chores cost on a ledger of ten thousand runs, a million, ten million."""
