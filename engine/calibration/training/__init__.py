"""States of a task are pulled onto the bases of its labels."""
