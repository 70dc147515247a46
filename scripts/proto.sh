#!/usr/bin/env bash
. "$(dirname "$0")/lib.sh"

need_package protoc protobuf-compiler || { echo "protoc is missing (Debian: protobuf-compiler)"; exit 1; }
plugin=$(tool protoc-gen-go)
git ls-files -co --exclude-standard '*.proto' | while read -r file; do
  protoc --plugin=protoc-gen-go="$plugin" --go_out=. --go_opt=module=github.com/quorate-db/quorate "$file"
done
