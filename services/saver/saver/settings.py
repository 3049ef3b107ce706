"""What the saver can be told."""

from courant.settings import HealthHost, Port, StoreSettings


class SaverSettings(StoreSettings):
    """The saver's."""

    saver_health_host: HealthHost = "127.0.0.1"
    saver_health_port: Port = 8410
