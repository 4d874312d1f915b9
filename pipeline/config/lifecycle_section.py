"""The tables `[challengers.NAME]` and `[promotion]` of the configuration: models beside the one that answers."""

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from headrace.pipeline.config.duration import duration_s
from headrace.pipeline.config.sections import Section
from headrace.state.shard_model import MODEL

_NAME = re.compile(r"[A-Za-z0-9_-]{1,50}")


def _challenger_name(name: str) -> str:
    if not _NAME.fullmatch(name) or name == MODEL:
        raise ValueError(f"{name!r} is no name of a challenger: up to 50 letters, digits, dashes and underscores")
    return name


ChallengerName = Annotated[str, AfterValidator(_challenger_name)]
_Span = Annotated[float, BeforeValidator(duration_s), Field(ge=0, allow_inf_nan=False)]


class ChallengerConfig(Section):
    """A challenger: it sees the same records as the model that answers, and is compared with it."""

    factory: str = Field(
        "model:build",
        pattern=r"^[\w.]+:\w+$",
        description="The challenger's function, as module:function beside this file.",
    )
    from_: Literal["now"] = Field(
        "now",
        alias="from",
        description="Where it begins to learn: now, with the champion's state if the factory is the champion's.",
    )


class PromotionConfig(Section):
    """When a challenger becomes the champion. A challenge keeps the rules with which it began."""

    mode: Literal["off", "ask", "auto"] = Field(
        "ask",
        description="off: no challengers. ask: only `headrace model promote` promotes. auto: so does its evidence.",
    )
    loss: Literal["", "brier", "zero-one", "log", "squared", "absolute"] = Field(
        "", description="What is compared. Empty: brier with probabilities, zero-one without, squared for numbers."
    )
    alpha: float = Field(
        0.05,
        gt=0,
        lt=1,
        description="Chance of ever promoting a challenger that is not better, in the pipeline's life.",
    )
    pairs_min: int = Field(1_000, ge=1, description="A promotion needs this number of labels.")
    span_min: _Span = Field(86_400.0, description="A promotion needs evidence over this event time.")
    score: Literal["arrival"] = Field("arrival", description="Labels count in the order in which they arrive.")
    pool: Literal["partition"] = Field("partition", description="Each partition decides for itself.")
    probation: _Span = Field(
        604_800.0, description="For this event time the former champion may return by itself. 0 drops it at once."
    )
