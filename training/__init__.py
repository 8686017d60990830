"""Data set -> trained weights. catalog.py lists the networks, recipes.py the recipes.

cli, settings, session   the command: its options, whether they fit together, and what it does
loop        the training loop, checkpoints, optimizers
tasks       what a network learns: one label or several, from a teacher too
runs        a run on disk
losses      logits and labels to a scalar to differentiate
metrics     how right predictions are
networks    the networks, layer by layer
data        data sets, whose files are checked against published digests, and the user's own pictures
report      a run's page
processes, progress      ranks, and how they are started; who observes a run
"""
