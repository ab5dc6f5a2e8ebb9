"""The one error of the noise schedule."""


class ScheduleError(ValueError):
    """A schedule cannot be built or used as asked; the message says what was given and what to do."""
