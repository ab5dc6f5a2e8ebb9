"""A user's mistake, told in one sentence: what was given, what was expected, what to do."""


class InputError(ValueError):
    """Input that cannot be used."""


class CannotShow(InputError):
    """Why a video's frames cannot become pictures: "kind: what exactly, and what to do", to be put into a sentence."""
