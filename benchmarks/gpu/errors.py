"""What can be wrong with a pack."""


class PackError(Exception):
    """A pack that cannot be made or used; the message says why."""
