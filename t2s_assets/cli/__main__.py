"""`python -m t2s_assets.cli`, the same as `t2s`."""

from t2s_assets.cli import main

main()
