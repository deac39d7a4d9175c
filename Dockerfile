# ModelForge for a card, and for the CPU; smaller for the CPU alone: --build-arg TORCH_INDEX=...
FROM python:3.12-slim-bookworm AS build

# Where the wheel of torch comes from, if not from the usual place. CUDA's libraries come with it.
ARG TORCH_INDEX=
# Extras to install, such as serve,math,xlsx.
ARG EXTRAS=serve,math,xlsx

ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /src
RUN python -m venv /opt/modelforge
# torch alone, before the sources: it is most of the image, and changes least.
COPY constraints.txt ./
RUN /opt/modelforge/bin/pip install ${TORCH_INDEX:+--index-url="$TORCH_INDEX"} -c constraints.txt torch
COPY pyproject.toml README.md LICENSE ./
COPY modelforge modelforge
COPY strategies strategies
COPY configs configs
COPY examples/tiny examples/tiny
RUN /opt/modelforge/bin/pip install -c constraints.txt ".[$EXTRAS]" \
    && /opt/modelforge/bin/modelforge --version

FROM python:3.12-slim-bookworm
# Triton compiles kernels when they are first used, with a C compiler.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 1000 modelforge \
    && mkdir -p /work /cache \
    && chown modelforge:modelforge /work /cache
COPY --from=build /opt/modelforge /opt/modelforge
ENV PATH=/opt/modelforge/bin:$PATH HF_HOME=/cache PYTHONUNBUFFERED=1
USER 1000:1000
WORKDIR /work
VOLUME ["/cache"]
ENTRYPOINT ["modelforge"]
CMD ["--help"]
