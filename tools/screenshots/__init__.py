"""Pictures of the run console, taken of a stack of their own with a day of work in it."""
