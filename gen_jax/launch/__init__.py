"""Commands: where configs, data, models, training and disk meet."""
