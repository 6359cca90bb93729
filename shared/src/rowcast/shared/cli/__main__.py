"""Run ``python -m rowcast.shared.cli``."""

from rowcast.shared.cli.app import main

main()
