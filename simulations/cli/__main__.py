"""`python -m fl_privacy.simulations.cli`, where the command is not on the path."""

from fl_privacy.simulations.cli import main

main()
