"""Entry point of every rank."""

import sys

from t2s_assets.text2sql.training.entry import main

if __name__ == "__main__":
    sys.exit(main())
