"""Run ``python -m rowcast.shared.cli``."""

from rowcast.shared.cli import main

main()
