# GuardWaltz as a container, on a Docker Space or anywhere: docs/deploy.md. tests/test_container.py runs every step without Docker.
FROM python:3.11-slim

# The CPU build of PyTorch (0.2 GB). For a GPU: --build-arg TORCH_INDEX_URL=https://download.pytorch.org/whl/cu130
ARG TORCH_INDEX_URL=https://download.pytorch.org/whl/cpu

# Spaces run as this user; nothing below needs root.
RUN useradd --create-home --uid 1000 user
USER user
RUN mkdir /home/user/app
ENV HOME=/home/user \
    PATH=/home/user/.local/bin:/usr/local/bin:/usr/bin:/bin \
    GUARDWALTZ_CACHE=/home/user/.cache/guardwaltz \
    GRADIO_ANALYTICS_ENABLED=False \
    OMP_WAIT_POLICY=passive \
    PYTHONUNBUFFERED=1
WORKDIR /home/user/app

COPY --chown=user requirements.txt ./
RUN pip install --user --no-cache-dir --index-url ${TORCH_INDEX_URL} $(grep ^torch== requirements.txt)
RUN pip install --user --no-cache-dir -r requirements.txt

COPY --chown=user . ./
RUN python -c "from core.lm.embedded import ensure_embedded; print(ensure_embedded())"

EXPOSE 7860
CMD ["python", "app.py", "--listen"]
