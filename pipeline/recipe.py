"""From the configuration to the parts: how records are read, how labels are waited for, and what learns."""

from collections.abc import Callable

import structlog

from consumers import schema
from consumers.record import Decoder
from pipeline.config import Config, ConfigError
from state import learner
from state.cell import Cell, Mind
from state.labels import Rules

log = structlog.get_logger("headrace")


def decoder(config: Config) -> Decoder:
    """Return what reads feature records, with the schema that is declared."""
    declared = config.schema_
    if not declared.features and declared.extra:
        return Decoder(value_bytes_max=config.records.value_bytes_max)
    features = {
        name: schema.Feature(
            type=feature.type,
            required=feature.required,
            nullable=feature.nullable,
            minimum=feature.min,
            maximum=feature.max,
            values=feature.values,
        )
        for name, feature in declared.features.items()
    }
    return Decoder(schema=schema.Schema(features, extra=declared.extra), value_bytes_max=config.records.value_bytes_max)


def rules(config: Config) -> Rules | None:
    """Return how labels are waited for; None without a labels topic."""
    labels = config.labels
    if config.topics.labels is None:
        return None
    return Rules(
        wait_ms=round(labels.wait * 1_000),
        waiting_max=labels.waiting_max,
        bytes_max=labels.bytes_max,
        remembered_max=labels.remembered_max,
        default=labels.default,
        corrections=labels.corrections,
    )


def minds(config: Config) -> Callable[[], Mind]:
    """Return what makes a new mind each time, having made one. Raises ModelError, ConfigError."""
    directory = config.directory
    factory = learner.load_factory(config.model.factory, directory)
    trusted = frozenset(config.model.trusted_packages) | learner.modules_beside(directory)
    first = learner.build(factory, trusted=trusted)
    if first.unseeded:
        log.warning("the model draws random numbers without a seed: give it one, or it can't be relearned")
    _check_default(config, first)
    return lambda: Cell(learner.build(factory, trusted=trusted))


def _check_default(config: Config, model: learner.Learner) -> None:
    """Raise ConfigError where the default label is none that the model can learn."""
    if config.topics.labels is None or config.labels.default is None:
        return
    try:
        model.label(config.labels.default)
    except learner.LabelError as error:
        raise ConfigError(f"labels.default: {error}", hint="give it a label of the model's own kind") from error
