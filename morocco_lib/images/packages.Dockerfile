# A base with the packages that a model needs, as bytecode too: start-up is a number that is reported.
ARG BASE_IMAGE=python:3.11-slim-bookworm
FROM ${BASE_IMAGE}
COPY packages /opt/morocco/packages
RUN ["python3", "-c", "import compileall, py_compile; compileall.compile_dir('/opt/morocco/packages', quiet=2, workers=0, invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)"]
