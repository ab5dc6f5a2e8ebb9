"""A user's mistake, told in one sentence: what was given, what was expected, what to do."""


class InputError(ValueError):
    """Input that cannot be used."""
