"""What a server of somebody's own federation saw, without any run: looked at, attacked, told."""
