"""Training scripts: `python -m fastopt.examples.digits` and its neighbours."""
