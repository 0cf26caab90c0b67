"""Labelled text in, a calibrated latent space out: the second half of the method (paper §3.3, §4).

A table becomes a task for one model, its prompts become states, states are calibrated, and what
comes out is measured. Module by module, in the order in which they build on each other:

==============  ==============================================================================
module          what it is
==============  ==============================================================================
`tables`        labelled files: CSV, TSV, JSON lines, Parquet, a data set of the hub
`words`         the tokens that stand for labels
`splits`        rows into training, validation and test
`spec`          columns, prompt template, label words, sizes
`known`         public data sets, and the sets that ship
`tasks`         all of these together: prompts, splits, labels, and a report to look at first
`features`      the last-position states of all prompts, once, kept on disk by content
`module`        λ(r) = LN(MLP(r ⊙ CA(r)))
`losses`        fixed bases as centroids; the clustering losses
`options`       what can be set, with measured defaults
`calibrated`    a trained calibration, and how states are read by it
`resuming`      a training's state, so that it goes on where it was
`epochs`        the loop that all of them are trained by
`tuning`        the objective on the model's layers, or LoRA
`train`         the same for the clustering module or the head's rows
`artifact`      a calibration on disk
`metrics`       what a classifier is measured by, with intervals
==============  ==============================================================================

Then come what it is compared with and how (`methods`, `evaluation`, `comparison`, `ablation`).
"""
