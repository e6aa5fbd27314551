# The engine with its command line, its workers and Flower: `docker build -t workflow-engine .`
# A worker is the default command; `docker compose up` runs it with everything it needs.
FROM python:3.11-slim AS build
WORKDIR /source
COPY pyproject.toml setup.py README.md ./
COPY workflow_engine workflow_engine
RUN python -m venv /opt/workflow-engine && /opt/workflow-engine/bin/pip install --no-cache-dir '.[flower,http,metrics,regex]'

FROM python:3.11-slim
RUN useradd --system --no-create-home --uid 10001 engine
COPY --from=build /opt/workflow-engine /opt/workflow-engine
# Your own node types go here too, named in WORKFLOW_ENGINE_IMPORTS; in a real deployment build on this image.
WORKDIR /app
COPY celeryconfig.py ./
COPY workers workers
COPY examples examples
ENV PATH=/opt/workflow-engine/bin:$PATH \
    PYTHONPATH=/app \
    PYTHONUNBUFFERED=1 \
    # `docker stop` sends SIGTERM: give running nodes worker_soft_shutdown_timeout, then give them back.
    REMAP_SIGTERM=SIGQUIT
USER engine
CMD ["celery", "-A", "workers", "worker", "--concurrency", "2", "--loglevel", "WARNING", "--without-gossip", "--without-mingle"]
