"""What this layer says to a person: one sentence with what was given, what was expected, what to do."""


class ConfigError(ValueError):
    """A network configuration that cannot be built."""


class CheckpointError(ValueError):
    """A file that cannot be read, written or understood as a network."""


def some(keys: list[str], limit: int = 3) -> str:
    """The first few names, and how many more, for a sentence."""
    return ", ".join(keys[:limit]) + (f" and {len(keys) - limit} more" if len(keys) > limit else "")
