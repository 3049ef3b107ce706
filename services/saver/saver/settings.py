"""What the saver can be told."""

from typing import Annotated

from pydantic import Field

from courant.settings import Port, StoreSettings


class SaverSettings(StoreSettings):
    """The saver's."""

    saver_health_host: Annotated[str, Field(description="an address to listen on")] = "127.0.0.1"
    saver_health_port: Port = 8401
