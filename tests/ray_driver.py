"""The command `fl-privacy`, as on the node of a cluster that is not its head."""

import sys

from ray._private import services

from fl_privacy.simulations.cli import main

if __name__ == "__main__":
    connect = services.get_node_to_connect_for_driver

    def beside_the_head(gcs_client, *choices, **named):
        """The node whose temporary folder is not the head's."""
        nodes = gcs_client.get_all_node_info().values()
        (folder,) = [node.temp_dir for node in nodes if not node.is_head_node and node.state == 0]
        print(f"attached to {folder}", flush=True)
        return connect(gcs_client, *choices, **{**named, "temp_dir": folder})

    services.get_node_to_connect_for_driver = beside_the_head
    sys.exit(main())
