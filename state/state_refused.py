"""The shape of the errors of state that a person has to mend: what is wrong, and what to do about it."""


class StateRefused(Exception):
    """Raised as one of its subclasses; `hint` is the operator's next step."""

    status = 400
    hint = ""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint or self.hint
