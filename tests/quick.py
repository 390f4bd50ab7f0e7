"""Waiting that tests do without: speeds and latencies are measured over moments, and no disk is waited for.

The processes that the library starts for tests import this as well.
"""

import os

from unimixer.experiments import worker
from unimixer.profiling import latency

worker.MEASURED_SECONDS = 0.1
latency.SECONDS = 0.05
os.fsync = lambda file: None  # a test's files need not survive a power failure
