"""The run console in a real browser. A package, so that what it starts ends with it: see conftest.py."""
