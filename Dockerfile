# Lexiscope in a container: CPU by default.
#   docker build -t lexiscope .
#   docker build -t lexiscope-cuda --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu130 .
#   docker run --rm -p 127.0.0.1:8000:8000 -e LEXISCOPE_TOKEN="$(openssl rand -base64 33)" lexiscope
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
 && /opt/lexiscope/bin/pip install --extra-index-url "$TORCH_INDEX" -c constraints.txt torch .

FROM python:3.11-slim-bookworm
RUN useradd --create-home --uid 10001 lexiscope
COPY --from=build /opt/lexiscope /opt/lexiscope
ENV PATH=/opt/lexiscope/bin:$PATH \
    LEXISCOPE_CACHE_DIR=/home/lexiscope/.cache/lexiscope \
    HF_HOME=/home/lexiscope/.cache/huggingface
USER 10001
WORKDIR /home/lexiscope
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=3s --start-period=120s \
  CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8000/livez', timeout=2)"]
# On 0.0.0.0 the app refuses to start without LEXISCOPE_TOKEN (or a written-out --no-auth).
CMD ["lexiscope", "serve", "--host", "0.0.0.0", "--port", "8000"]
