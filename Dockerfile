# SPDX-License-Identifier: Apache-2.0
# The gateway in a slim Debian image. Two stages: wheels are built (or fetched) in the first; the second holds Python,
# the wheels and an unprivileged user, no compiler and no pip cache.
#   docker build -t sluicefs . && docker run --rm sluicefs version
ARG PYTHON_VERSION=3.11

FROM docker.io/library/python:${PYTHON_VERSION}-slim-bookworm AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /src
# Dependencies first: this layer is reused until pyproject.toml changes.
COPY pyproject.toml README.md LICENSE ./
RUN python -c "import tomllib; print('\n'.join(tomllib.load(open('pyproject.toml','rb'))['project']['dependencies']))" > /requirements.txt \
 && pip wheel --wheel-dir /wheels --requirement /requirements.txt
COPY core core
COPY gateways gateways
COPY csi csi
COPY sluicefs sluicefs
RUN pip wheel --no-deps --wheel-dir /wheels .

FROM docker.io/library/python:${PYTHON_VERSION}-slim-bookworm
LABEL org.opencontainers.image.title="SluiceFS" \
      org.opencontainers.image.description="One file system behind every door, over any object store" \
      org.opencontainers.image.licenses="Apache-2.0"
RUN --mount=type=bind,from=build,source=/wheels,target=/wheels \
    pip install --no-cache-dir --no-index --find-links=/wheels sluicefs \
 && groupadd --gid 10001 sluice \
 && useradd --uid 10001 --gid 10001 --home-dir /var/lib/sluice --create-home --shell /usr/sbin/nologin sluice \
 && install -d -o sluice -g sluice /var/cache/sluice
ENV PYTHONUNBUFFERED=1 \
    SLUICE_CACHE_DIR=/var/cache/sluice
USER 10001:10001
WORKDIR /var/lib/sluice
VOLUME ["/var/lib/sluice", "/var/cache/sluice"]
EXPOSE 9000
# Python's SIGTERM handling needs no init: the gateway is process 1 and ends its own workers.
STOPSIGNAL SIGTERM
ENTRYPOINT ["sluice"]
CMD ["--help"]
