"""`python -m era_llm`."""

from era_llm.cli import main

main()
