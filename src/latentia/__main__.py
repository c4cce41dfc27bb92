"""`python -m latentia`, which launchers such as torchrun start."""

from latentia.cli import main

main()
