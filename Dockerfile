# Lexiscope in a container: CPU by default.
#   docker build -t lexiscope .
#   docker build -t lexiscope-cuda --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu130 .
#   docker run --rm --init -p 127.0.0.1:8000:8000 -v lexiscope-data:/data -v lexiscope-cache:/cache \
#     -e LEXISCOPE_TOKEN="$(openssl rand -base64 33)" lexiscope
# compose.yaml says the same with limits and restarts; docs/deploy.md has the rest.
FROM python:3.11-slim-bookworm AS build
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY app app
COPY engine engine
COPY static static
COPY templates templates
COPY models models
RUN python -m venv /opt/lexiscope \
 && /opt/lexiscope/bin/pip install --extra-index-url "$TORCH_INDEX" -c constraints.txt torch . \
 && /opt/lexiscope/bin/pip check \
 && /opt/lexiscope/bin/lexiscope models add smollm2

FROM python:3.11-slim-bookworm
LABEL org.opencontainers.image.title="Lexiscope" \
      org.opencontainers.image.licenses="Apache-2.0"
# A volume takes over the owner of the folder that it is first mounted on, so both are made here.
RUN useradd --uid 10001 --home-dir /cache --no-create-home --shell /usr/sbin/nologin lexiscope \
 && install -d -m 0700 -o lexiscope -g lexiscope /data /cache
COPY --from=build /opt/lexiscope /opt/lexiscope
# /data is what people saved and what a back-up takes; /cache can be lost: bases, models of the hub,
# and what numba and matplotlib write, which may not write beside their own code.
ENV PATH=/opt/lexiscope/bin:$PATH \
    LEXISCOPE_DATA_DIR=/data \
    LEXISCOPE_CACHE_DIR=/cache/bases \
    HF_HOME=/cache/huggingface \
    NUMBA_CACHE_DIR=/cache/numba \
    MPLCONFIGDIR=/cache/matplotlib \
    PYTHONUNBUFFERED=1
VOLUME ["/data", "/cache"]
USER 10001:10001
WORKDIR /cache
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=3s --start-period=120s \
  CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8000/livez', timeout=2)"]
# On 0.0.0.0 the app refuses to start without LEXISCOPE_TOKEN (or a written-out --no-auth).
CMD ["lexiscope", "serve", "--host", "0.0.0.0", "--port", "8000"]
