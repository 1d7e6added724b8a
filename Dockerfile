# Two images from one file: `docker build --target gateway .` (no torch) and `--target worker` (everything).
ARG PYTHON=3.12

FROM python:${PYTHON}-slim AS build
WORKDIR /src
RUN python -m venv /app
ENV PATH=/app/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
# What changes seldom first: without sources, only the dependencies of pyproject.toml are there to install.
COPY pyproject.toml constraints.txt README.md LICENSE ./
RUN mkdir -p ldm_core service worker clients/python/ldm_client \
  && touch ldm_core/__init__.py service/__init__.py worker/__init__.py clients/python/ldm_client/__init__.py

FROM build AS build-gateway
RUN pip install -c constraints.txt .
COPY clients clients
COPY ldm_core ldm_core
COPY service service
COPY worker worker
# The gateway reads model cards from Redis, not weights from disk.
RUN rm -rf ldm_core/builtin && pip install --no-deps --force-reinstall .

FROM build AS build-worker
# for ldm_core/acceleration/*.c
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*
# For a worker without CUDA: --build-arg PIP_ARGS="--extra-index-url https://download.pytorch.org/whl/cpu"
ARG PIP_ARGS=""
RUN pip install ${PIP_ARGS} -c constraints.txt ".[worker]"
COPY clients clients
COPY ldm_core ldm_core
COPY service service
COPY worker worker
RUN pip install --no-deps --force-reinstall .

FROM python:${PYTHON}-slim AS runtime
RUN useradd --uid 10001 --create-home ldm && install -d -o ldm -g ldm /data
ENV PATH=/app/bin:$PATH PYTHONUNBUFFERED=1 LDM_DATA_DIR=/data LDM_LOG_FORMAT=json
USER 10001

FROM runtime AS worker
# On a GPU, Triton compiles its launcher by the C compiler when a worker first starts, and keeps it beside the kernels.
USER root
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*
USER 10001
ENV TRITON_CACHE_DIR=/tmp/triton
COPY --from=build-worker /app /app
ENV LDM_METRICS_PORT=9100
EXPOSE 9100
# Loading a large model may take minutes; until then nothing answers.
HEALTHCHECK --interval=10s --timeout=3s --start-period=20m --start-interval=2s \
  CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:9100/metrics', timeout=2)"]
CMD ["ldm", "worker"]

FROM runtime AS gateway
COPY --from=build-gateway /app /app
ENV LDM_HOST=0.0.0.0 LDM_PORT=8000
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s --start-interval=1s \
  CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/healthz', timeout=2)"]
CMD ["ldm", "gateway"]
