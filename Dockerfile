# Workers and the monitor, with what they need for snapshots in an object store:
#
#   docker build --tag headrace:0.1.0 .
#   docker run --init --volume ./pipeline:/pipeline:ro --volume snapshots:/var/lib/headrace \
#     --env HEADRACE_SNAPSHOTS__LOCATION=/var/lib/headrace/snapshots headrace:0.1.0 run payments.toml
#
# It is checked for form, and what it installs is tried in a virtual environment: no Docker engine has built it yet.

FROM python:3.12.11-slim-bookworm AS build
WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY stream stream
COPY learners learners
COPY monitors monitors
RUN python -m pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .
RUN python -m venv /opt/headrace \
    && /opt/headrace/bin/pip install --no-cache-dir --constraint constraints.txt \
        "$(echo /wheels/headrace-*.whl)[monitor,s3]"

FROM python:3.12.11-slim-bookworm
# Snapshots are opened by the minor version of Python that wrote them: see docs/how-to/upgrade-and-rebuild.md.
# PYTHONHASHSEED is not set: `headrace run` sets it for itself, and what listens to the network is better without.
ENV PATH=/opt/headrace/bin:$PATH \
    HOME=/tmp \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
RUN groupadd --gid 10001 headrace \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin headrace \
    && install -d -m 700 -o headrace -g headrace /var/lib/headrace
COPY --from=build /opt/headrace /opt/headrace
COPY deploy/healthcheck.py /opt/headrace/healthcheck.py
# By number, so that an orchestrator sees that it is not root.
USER 10001:10001
WORKDIR /pipeline
EXPOSE 8811 8800
# The worker commits, keeps a snapshot and ends; give it 40 seconds.
STOPSIGNAL SIGTERM
# Of a worker on its default port; the monitor has its own in docker-compose.yml.
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "/opt/headrace/healthcheck.py", "http://127.0.0.1:8811/healthz"]
# Exec form: signals reach headrace itself.
ENTRYPOINT ["headrace"]
CMD ["--help"]
