"""`python -m era_llm`."""

import sys

from era_llm.cli import main

if __name__ == "__main__":
    sys.exit(main())
