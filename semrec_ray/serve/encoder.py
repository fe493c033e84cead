"""The text model in a Serve replica: texts in, unit vectors out."""

from collections.abc import Sequence

from semrec_ray.config import AppConfig
from semrec_ray.parts import open_text_encoders
from semrec_ray.serve.following import Following
from semrec_ray.types import PartStatus, Vector


class EncoderReplica(Following):
    """Holds the model of each release."""

    async def __init__(self, config: AppConfig) -> None:  # type: ignore[misc]  # Serve awaits it
        self._observed(config)
        self._encoder = open_text_encoders(config)
        await self._follow(config.poll_s, self._encoder.held)

    async def encode(self, requests: list[tuple[str, str]]) -> Sequence[Vector | Exception]:
        """Return for each (release, text) the embedding by the release's model, or an error."""
        return await self._encoder.encode(requests)

    async def reach(self, seq: int) -> None:
        """Wait until it has a live write."""
        await self._encoder.reach(seq)

    async def status(self, *serving: str | None) -> PartStatus:
        """Return what it holds; the releases that the caller answers from stay held."""
        return await self._encoder.status(*serving)
