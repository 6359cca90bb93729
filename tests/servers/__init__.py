"""Real servers for tests and benchmarks: Kafka, PostgreSQL, MariaDB, Kafka Connect.

Where a Docker engine answers they are containers of the images that docker-compose.yml names; elsewhere they are
programs of Debian's packages and of Maven's jars. Either way they listen on free ports of 127.0.0.1, keep their data in
a temporary folder, and end with the process that started them, even if it is killed.

By hand: `cd tests && python -m servers up`.
"""

from .broker import Broker
from .connect import Connect
from .mariadb import MariaDB
from .postgresql import PostgreSQL
from .server import DatabaseServer, Server, ServerError
from .session import SERVERS, Servers

__all__ = [
    "SERVERS",
    "Broker",
    "Connect",
    "DatabaseServer",
    "MariaDB",
    "PostgreSQL",
    "Server",
    "ServerError",
    "Servers",
]
