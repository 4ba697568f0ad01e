"""What developers run: the local stack and the project's small tools. Nothing here is deployed."""
