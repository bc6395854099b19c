"""Where the clients and the attacks run: this process, or Ray."""
