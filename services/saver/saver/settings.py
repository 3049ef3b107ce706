"""The saver's settings."""

from courant.settings import HealthHost, Port, StoreSettings


class SaverSettings(StoreSettings):
    """The saver reads these from the environment."""

    saver_health_host: HealthHost = "127.0.0.1"
    saver_health_port: Port = 8410
