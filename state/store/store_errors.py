"""The errors of the store. They are apart from its client, so that the engine need not import Redis."""

from headrace.state.row_packing import TableDamaged
from headrace.state.state_refused import StateRefused


class StoreAway(Exception):
    """Raised when the store can't be reached or can't serve for now; the same call may work later."""

    status = 503
    address_key = "redis.url"
    hint = "start the store or correct redis.url; a running pipeline waits for it and loses nothing"


class StoreFenced(Exception):
    """Raised when a newer owner has claimed the shard; this worker must give it up."""

    status = 409
    hint = "nothing to do: another worker has taken the partition over"


class StoreRefused(StateRefused):
    """Raised when the store refuses a command until something is changed."""

    address_key = "redis.url"
    hint = "check redis.url, the password in it and the user's rights (`headrace doctor` tells which)"


class StoreLoginRefused(StoreRefused):
    """Raised when the store does not let the client in: a wrong password, or a certificate."""

    status = 401


class StoreDenied(StoreRefused):
    """Raised when the user lacks a right in the store."""

    status = 403


STORE_ERRORS = (StoreAway, StoreFenced, StoreRefused, TableDamaged)
"""The errors of a store that can't serve, has lost rows, or serves a newer owner."""
