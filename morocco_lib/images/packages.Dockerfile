# A base with the packages a model needs, compiled: start-up is a number that is reported.
ARG BASE_IMAGE=python:3.11-slim-bookworm
FROM ${BASE_IMAGE}
COPY packages /opt/morocco/packages
COPY compile.py /opt/morocco/compile.py
RUN ["python3", "/opt/morocco/compile.py", "/opt/morocco/packages"]
