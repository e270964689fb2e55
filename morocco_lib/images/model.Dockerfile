# The large files of one weights folder and nothing of a task: equal weights are one layer, whatever task is asked.
ARG PACKAGES_IMAGE
FROM ${PACKAGES_IMAGE}
COPY weights /opt/morocco/weights
