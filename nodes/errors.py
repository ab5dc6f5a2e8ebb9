"""What a node says to a person: one sentence with what was given, what was expected, what to do."""


class NodeError(ValueError):
    """A user's mistake, told in one sentence."""
