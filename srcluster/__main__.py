"""`python -m srcluster`: the verbs."""

from srcluster.cli import main

main()
