"""``python -m unimixer`` is the command line."""

from unimixer.cli import main

main()
