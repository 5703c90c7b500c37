# A worker: `docker build -t headrace .`, then `docker run -v ./pipeline:/pipeline headrace run /pipeline/settings.toml`.
FROM python:3.12-slim

WORKDIR /opt/headrace
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY stream stream
COPY learners learners
COPY monitors monitors
RUN pip install --no-cache-dir --constraint constraints.txt .

RUN useradd --create-home headrace
USER headrace
WORKDIR /pipeline
# Exec form: SIGTERM reaches the worker, which then commits and ends cleanly.
ENTRYPOINT ["headrace"]
CMD ["--help"]
