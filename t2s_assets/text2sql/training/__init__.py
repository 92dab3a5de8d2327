"""Training one experiment's adapter: the plan, the guards, the run, its checkpoints and its speed.

`entry` is where a training starts, whoever starts it; `python -m t2s_assets.text2sql.training` is the same.
"""

from t2s_assets.text2sql.training.entry import command, environment, launch, run, show_plan, train, training_key

__all__ = ["command", "environment", "launch", "run", "show_plan", "train", "training_key"]
