"""Images of models: three small Dockerfiles, built so that what images share is stored once; and registries."""
