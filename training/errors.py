"""A run that cannot start, told in one sentence."""


class TrainingError(ValueError):
    """A training run's config, data or folder that cannot be used."""
