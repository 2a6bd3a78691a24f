# sealbatch in containers, for those who run HPCS's steps with docker compose (compose.yaml). A target for each of
# HPCS's images (container-prep, data-prep, job-prep), and results, server (the key service) and sealbatch besides:
#
#   docker build --target data-prep -t localhost/sealbatch/data-prep .
#
# `make docker` makes all of them without Docker. Without a network: docker load a Go image, name it by
# --build-arg GO_IMAGE=..., and run `go mod vendor && go -C tools/gocryptfs mod vendor` here first.
#
# Nothing of a distribution is in them: two static programs, which also travel with every job, and the authorities that
# browsers trust. So build for the processors of the supercomputer (--platform linux/amd64, say), whatever the laptop has.
# The digest of its index, which covers every platform: `docker buildx imagetools inspect golang:TAG` shows that of another.
ARG GO_IMAGE=golang:1.26.8@sha256:3c3e25a4da13fd0478eed2df1eb35a0e667094a7124d3993a6a1d30f71c17e79
FROM ${GO_IMAGE} AS build
WORKDIR /src
COPY . .
# What the programs and the labels say they are; without it, what git says.
ARG VERSION
RUN make build && go run ./tools/image -bin bin -root /image

FROM scratch AS base
COPY --from=build /image/ /
# The home directory is where compose.yaml mounts .ssh, and where submitted jobs are remembered.
ENV PATH=/usr/local/bin HOME=/tmp
# What is named by no absolute path, such as results-4711, outlives the container.
WORKDIR /tmp
# Whoever publishes the images says what they are.
ARG SOURCE=https://github.com/sealbatch/sealbatch
ARG VERSION=unknown
LABEL org.opencontainers.image.source=${SOURCE} org.opencontainers.image.version=${VERSION} \
      org.opencontainers.image.licenses=Apache-2.0

FROM base AS container-prep
LABEL org.opencontainers.image.title=container-prep
ENTRYPOINT ["/usr/local/bin/container-prep"]

FROM base AS data-prep
LABEL org.opencontainers.image.title=data-prep
ENTRYPOINT ["/usr/local/bin/data-prep"]

FROM base AS job-prep
LABEL org.opencontainers.image.title=job-prep
ENTRYPOINT ["/usr/local/bin/job-prep"]

FROM base AS results
LABEL org.opencontainers.image.title=results
ENTRYPOINT ["/usr/local/bin/results"]

FROM base AS server
LABEL org.opencontainers.image.title=server
EXPOSE 8443
ENTRYPOINT ["/usr/local/bin/sealbatch", "serve"]
CMD ["--config", "/etc/sealbatch/server.conf"]

FROM base AS sealbatch
LABEL org.opencontainers.image.title=sealbatch
ENTRYPOINT ["/usr/local/bin/sealbatch"]
