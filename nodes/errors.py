"""What the nodes say to a person."""


class NodeError(ValueError):
    """A user's mistake, told in one sentence: what was given, what was expected, what to do."""


# The host shows it with its module, which would be the path of this folder.
NodeError.__module__ = "DreamFactory"
