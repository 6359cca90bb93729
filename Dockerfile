# Build one image for application, relay and workers. docker-compose.yml names the command of each service.
FROM python:3.12-slim AS build
RUN pip install --no-cache-dir --disable-pip-version-check 'uv>=0.13,<1'
ENV UV_COMPILE_BYTECODE=1 UV_LINK_MODE=copy UV_PYTHON_DOWNLOADS=never
WORKDIR /app
COPY pyproject.toml uv.lock ./
# The libraries have a separate layer, because they change less often than the code.
RUN uv sync --frozen --no-group dev --extra all --no-install-project
COPY README.md LICENSE ./
COPY shared shared
COPY producer producer
COPY consumer consumer
RUN uv sync --frozen --no-group dev --extra all --no-editable

FROM python:3.12-slim
RUN useradd --system --uid 10001 --create-home rowcast
COPY --from=build /app/.venv /app/.venv
COPY examples /app/examples
ENV PATH=/app/.venv/bin:$PATH PYTHONUNBUFFERED=1
USER rowcast
WORKDIR /home/rowcast
# A container is healthy while its process is not stuck. Without ROWCAST_METRICS nothing can be asked.
HEALTHCHECK --interval=10s --timeout=10s --start-period=30s CMD ["python", "-c", "import os, urllib.request; address = os.environ.get('ROWCAST_METRICS', ''); address and urllib.request.urlopen('http://' + (address if ':' in address else '127.0.0.1:' + address) + '/healthz')"]
CMD ["rowcast", "--help"]
