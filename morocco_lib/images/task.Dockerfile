# What is left to say: the program, the small files of the weights folder, and which task is asked. Its labels are added.
ARG MODEL_IMAGE
FROM ${MODEL_IMAGE}
COPY code /opt/morocco/code
RUN ["python3", "/opt/morocco/compile.py", "/opt/morocco/code"]
USER 65532:65532
ENTRYPOINT ["python3", "-m", "morocco_lib", "infer", "/opt/morocco/weights"]
COPY weights /opt/morocco/weights
ARG TASK_NAME
ENV PYTHONPATH=/opt/morocco/code:/opt/morocco/packages PYTHONDONTWRITEBYTECODE=1 MOROCCO_INFER_TASK=${TASK_NAME}
