"""How the default model is made: tokenizer, data, training, evaluation, export.

Each module is one command; `training/README.md` lists them in order. Nothing here is imported by
the engine or the app.
"""
