"""What the nodes say to a person."""


class NodeError(ValueError):
    """A user's mistake, told in one sentence: what was given, what was expected, what to do."""

    field: str | None = None  # the node's input that the sentence begins with, once it is known


# The host shows it with its module, which would be the path of this folder.
NodeError.__module__ = "DreamFactory"
