"""GLUE (Wang et al., 2018): nine tasks in English and a diagnostic, a module each."""
