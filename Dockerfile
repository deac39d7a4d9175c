# ModelForge for a card, and for the CPU; smaller for the CPU alone: --build-arg TORCH_INDEX=...
# Not the slim image: Triton compiles kernels when they are first used, with a C compiler.
FROM python:3.12-bookworm

# Where the wheel of torch comes from, if not from the usual place. CUDA's libraries come with it.
ARG TORCH_INDEX=
# Extras to install, such as serve,math,xlsx.
ARG EXTRAS=serve,math,xlsx

ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /src
# torch alone, before the sources: it is most of the image, and changes least.
COPY constraints.txt ./
RUN pip install ${TORCH_INDEX:+--index-url="$TORCH_INDEX"} -c constraints.txt torch
COPY pyproject.toml README.md LICENSE ./
COPY modelforge modelforge
COPY strategies strategies
COPY configs configs
COPY examples/tiny examples/tiny
RUN pip install -c constraints.txt ".[$EXTRAS]" && modelforge --version

RUN useradd --create-home --uid 1000 modelforge \
    && mkdir -p /data /cache \
    && chown modelforge:modelforge /data /cache
ENV HF_HOME=/cache PYTHONUNBUFFERED=1
USER 1000:1000
WORKDIR /data
VOLUME ["/cache"]
ENTRYPOINT ["modelforge"]
CMD ["--help"]
