# The library, the small files of the weights folder, and which task is asked. Labels are added.
ARG MODEL_IMAGE
FROM ${MODEL_IMAGE}
COPY code /opt/morocco/code
RUN ["python3", "-c", "import compileall, py_compile; compileall.compile_dir('/opt/morocco/code', quiet=2, invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)"]
USER 65532:65532
ENTRYPOINT ["python3", "-m", "morocco_lib.infer", "/opt/morocco/weights"]
COPY weights /opt/morocco/weights
ARG TASK_NAME
ENV PYTHONPATH=/opt/morocco/code:/opt/morocco/packages PYTHONDONTWRITEBYTECODE=1 MOROCCO_INFER_TASK=${TASK_NAME}
