"""The table `[registry]`: where the schemas of records and predictions are."""

from typing import Any
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator

from headrace.pipeline.config.property_names import dotted


class RegistryConfig(BaseModel):
    """The schema registry, for the formats avro, protobuf and json-schema."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    url: str = Field(
        "",
        repr=False,
        description="Address of a schema registry that speaks Confluent's API, as http://host:8081.",
    )
    register_: bool = Field(
        default=True,
        alias="register",
        description="Register the schema of the predictions. If false, it must be there already.",
    )
    client: dict[str, str | int | float | bool] = Field(
        default_factory=dict,
        repr=False,
        description="Any property of confluent_kafka.schema_registry, passed on, as basic.auth.user.info.",
    )

    @field_validator("url")
    @classmethod
    def _addresses(cls, value: str) -> str:
        for address in filter(None, value.split(",")):
            parts = urlsplit(address.strip())
            if parts.scheme not in {"http", "https"} or not parts.hostname:
                raise ValueError("it must be like http://host:8081, several separated by commas")
        return value

    @field_validator("client", mode="before")
    @classmethod
    def _names(cls, value: Any) -> Any:
        return dotted(value)

    @field_validator("client")
    @classmethod
    def _not_owned(cls, value: dict[str, str | int | float | bool]) -> dict[str, str | int | float | bool]:
        if "url" in value:
            raise ValueError("url is set by registry.url; remove it")
        return value
