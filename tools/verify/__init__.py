"""``make verify``: whether a running system is what this checkout says it is, one line a check.

The schema against the migrations, the endpoint's answers against the rows they leave, the whole ledger against its
rules. It adds one issue with an id of its own, two runs of it, and changes nothing else.
"""
