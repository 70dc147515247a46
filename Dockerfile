# Two ways to an image of one static binary and nothing else.
#
#   docker build -t quorate:local .                      builds from source
#   docker build -t quorate:local --target prebuilt .    takes bin/quorate, built outside
#
# "prebuilt" comes first because the classic builder runs every stage above its
# target, and tests build it where no base image can be pulled.

FROM scratch AS prebuilt
COPY bin/quorate /quorate
COPY --chown=65532:65532 deploy/docker/data/ /data/
COPY --chown=65532:65532 deploy/docker/data/ /secret/
COPY --chown=65532:65532 deploy/docker/data/ /tokens/
USER 65532:65532
VOLUME /data
EXPOSE 7001 7101
ENV QUORATE_DATA_DIR=/data
HEALTHCHECK --interval=5s --timeout=3s --start-period=20s --retries=3 CMD ["/quorate", "health"]
ENTRYPOINT ["/quorate"]
CMD ["serve"]

FROM golang:1.26 AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
ARG VERSION=dev
RUN CGO_ENABLED=0 go build -trimpath -ldflags "-s -w -X main.release=${VERSION}" -o /quorate ./cmd/quorate

FROM scratch
COPY --from=build /quorate /quorate
COPY --chown=65532:65532 deploy/docker/data/ /data/
COPY --chown=65532:65532 deploy/docker/data/ /secret/
COPY --chown=65532:65532 deploy/docker/data/ /tokens/
USER 65532:65532
VOLUME /data
EXPOSE 7001 7101
ENV QUORATE_DATA_DIR=/data
HEALTHCHECK --interval=5s --timeout=3s --start-period=20s --retries=3 CMD ["/quorate", "health"]
ENTRYPOINT ["/quorate"]
CMD ["serve"]
