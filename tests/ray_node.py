"""`ray start`, listening at 127.0.0.1 alone, which it otherwise takes for the machine's address on the network."""

import sys

from ray._private import services
from ray.scripts.scripts import main

if __name__ == "__main__":
    services.resolve_ip_for_localhost = str
    sys.exit(main())
