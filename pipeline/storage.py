"""Opens the store of a configuration, for the worker and for every command."""

from headrace.pipeline.config.config import Config
from headrace.state.store.store import Store


def open_store(config: Config, *, timeout_s: float | None = None) -> Store:
    """Return the configured store, without connecting to it; `timeout_s` replaces `redis.timeout`."""
    redis = config.redis
    return Store(
        redis.url.get_secret_value(),
        name=config.name,
        keep=config.snapshot.keep,
        timeout_s=redis.timeout if timeout_s is None else timeout_s,
        sign_key=redis.signature,
        client_options=redis.client,
        sentinel_options=redis.sentinel,
    )
