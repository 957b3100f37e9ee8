# edgesea for a cluster or a server: the wheel alone, no root, `edgesea` as the command.
#
#   docker build -t edgesea .                                                  # CPU
#   docker build -t edgesea --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu130 .
#   docker run --rm --user "$(id -u):$(id -g)" -v "$PWD:/data" edgesea run experiment.yaml --out runs/mine
#   docker run --gpus all --shm-size 8g ...                                    # with GPUs
#   apptainer build edgesea.sif docker-daemon://edgesea:latest                 # for SLURM nodes without Docker
FROM python:3.12-slim AS build
RUN apt-get update && apt-get install --yes --no-install-recommends git && rm -rf /var/lib/apt/lists/*
COPY . /source
RUN git config --global --add safe.directory /source \
    && pip wheel --no-cache-dir --no-deps --wheel-dir /wheels /source

FROM python:3.12-slim
ARG EXTRAS=train,openvino,umap,cluster,codecs,export
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN --mount=type=bind,from=build,source=/wheels,target=/wheels \
    --mount=type=bind,source=constraints.txt,target=/constraints.txt \
    pip install --no-cache-dir --constraint /constraints.txt --extra-index-url "$TORCH_INDEX" \
        "$(echo /wheels/*.whl)[$EXTRAS]" \
    && useradd --create-home --uid 1000 edgesea
# Caches of libraries need a home that any --user can write to, and Python a name for a --user that the system does not know
ENV HOME=/tmp USER=edgesea PYTHONUNBUFFERED=1
USER 1000
WORKDIR /data
ENTRYPOINT ["edgesea"]
CMD ["--help"]
