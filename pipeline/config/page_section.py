"""The table of the live page: where it listens, and who may act on it."""

from pydantic import Field

from headrace.pipeline.config.sections import Section


class PageConfig(Section):
    """The live page (`headrace page`)."""

    host: str = Field("127.0.0.1", min_length=1, description="Address to listen on.")
    port: int = Field(8600, ge=0, le=65_535, description="Port to listen on. 0 takes a free one.")
    actions: bool = Field(
        default=False, description="Allow actions, such as the replay of dead letters, to whoever has the token."
    )
    token_file: str = Field(
        "", description="File with the token for actions. Without it, a token is drawn and printed at the start."
    )
