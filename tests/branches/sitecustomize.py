"""Python imports this in every process that begins while branches are measured: this folder leads in PYTHONPATH."""

import places

places.begin()
