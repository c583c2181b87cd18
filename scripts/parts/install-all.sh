#!/usr/bin/env bash
# Fetches every real part into the user's cache. Fails where one cannot be had (no network, no root for Java): the tests that need them are then skipped.
set -euo pipefail
cd "$(dirname "$0")"
for part in kafka postgres seaweedfs registry rest-catalog; do
  "./$part.sh" install
done
