"""Start real servers for tests and benchmarks: Kafka, PostgreSQL, MariaDB, MySQL, Kafka Connect.

If a Docker engine answers, the servers are containers of the images in docker-compose.yml. Without Docker, the servers
are programs of Debian's packages and of Maven's jars. In both cases the servers listen on free ports of 127.0.0.1, keep
their data in a temporary folder, and end with the process that started them, even after SIGKILL.

By hand: `cd tests && python -m servers up`.
"""

from .broker import Broker
from .connect import Connect
from .mariadb import MariaDB
from .mysql import MySQL
from .postgresql import NewestPostgreSQL, PostgreSQL
from .server import DatabaseServer, Server, ServerError
from .session import SERVERS, Servers

__all__ = [
    "SERVERS",
    "Broker",
    "Connect",
    "DatabaseServer",
    "MariaDB",
    "MySQL",
    "NewestPostgreSQL",
    "PostgreSQL",
    "Server",
    "ServerError",
    "Servers",
]
