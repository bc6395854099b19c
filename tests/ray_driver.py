"""The command `fl-privacy`, as on the node of a cluster that is not its head."""

import os
import sys

from ray._private import services

from fl_privacy.simulations.cli import main

if __name__ == "__main__":
    connect = services.get_node_to_connect_for_driver

    def beside_the_head(gcs_client, *choices, **named):
        """The node of this temporary folder: one that an earlier test has ended may not be known as dead yet."""
        folder = os.environ["FL_PRIVACY_TESTED_NODE"]
        print(f"attached to {folder}", flush=True)
        return connect(gcs_client, *choices, **{**named, "temp_dir": folder})

    services.get_node_to_connect_for_driver = beside_the_head
    sys.exit(main())
