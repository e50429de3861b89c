# evatool in a small image:
#
#   docker build -t evatool .
#   docker run --rm -u "$(id -u):$(id -g)" -v "$PWD:/data" evatool convert model.pt -o model.safetensors
#
# The XLA CPU plugin is fetched while it is built, with the hash that evatool
# knows; --build-arg PLUGIN= leaves it out.
FROM golang:1.26-bookworm AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
ARG VERSION=0.1.0-dev
ARG COMMIT=
RUN GOEXPERIMENT=simd CGO_ENABLED=1 go build -trimpath -buildvcs=false \
    -ldflags "-s -w -X github.com/evatool/evatool/internal/runlog.Version=$VERSION -X github.com/evatool/evatool/internal/runlog.commit=$COMMIT" \
    -o /evatool .
ARG PLUGIN=cpu
RUN mkdir /cache && \
    if [ -n "$PLUGIN" ]; then XDG_CACHE_HOME=/cache /evatool backend install "$PLUGIN"; fi && \
    chmod -R a+rwX /cache

FROM debian:bookworm-slim
RUN apt-get update && \
    apt-get install -y --no-install-recommends ca-certificates libstdc++6 && \
    rm -rf /var/lib/apt/lists/*
COPY --from=build /evatool /usr/local/bin/evatool
COPY --from=build /cache /cache
COPY LICENSE NOTICE /usr/share/doc/evatool/
ENV XDG_CACHE_HOME=/cache
USER 65534:65534
WORKDIR /data
ENTRYPOINT ["evatool"]
CMD ["--help"]
