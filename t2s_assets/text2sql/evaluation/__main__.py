"""Entry point of every rank."""

import sys

from t2s_assets.text2sql.evaluation.entry import main

if __name__ == "__main__":
    sys.exit(main())
