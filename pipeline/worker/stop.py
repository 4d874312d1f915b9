"""What ends the loop of a worker: somebody's wish, or a flood that no waiting ends."""


class FloodError(Exception):
    """Raised under --until-end when a flood of bad records holds the stream: waiting would never end."""

    status = 400
    hint = "mend what produces them, or set dlq.flood_guard = false to let them go to the dead letters"


class Stop:
    """Asks the loop to end after the batch at hand; set by signals."""

    def __init__(self) -> None:
        self.asked = False
