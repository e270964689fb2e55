# The large files of one weights folder, and nothing of a task: equal weights are one layer, whatever answers with them.
ARG PACKAGES_IMAGE
FROM ${PACKAGES_IMAGE}
COPY weights /opt/morocco/weights
