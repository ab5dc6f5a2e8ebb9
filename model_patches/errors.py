"""What this layer says to a person: one sentence with what was given, what was expected, what to do."""


class ConfigError(ValueError):
    """A network configuration that cannot be built."""


class CheckpointError(ValueError):
    """A file that cannot be read, written or understood as a network."""
