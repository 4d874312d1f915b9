"""The shape of the pipeline's errors: a message that says what is wrong, and a hint that says what to do about it."""


class HintedError(Exception):
    """Raised as one of its subclasses; `hint` is the operator's next step."""

    status = 400

    def __init__(self, message: str, *, hint: str) -> None:
        super().__init__(message)
        self.hint = hint
