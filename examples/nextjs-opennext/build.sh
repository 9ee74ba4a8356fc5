#!/usr/bin/env bash
# Builds the Next.js app with OpenNext and lays the result out as a bundle: bundle.zip.
# Needs Node.js 20.9 or newer with npm, and python3 for zipping.
set -euo pipefail
cd "$(dirname "$0")"
export NEXT_TELEMETRY_DISABLED=1 LC_ALL=C TZ=UTC

# What the bundle is made of. The digests of these are kept beside it (built.sha256).
mapfile -t sources < <(find app public -type f | sort)
sources+=(build.sh config.json next.config.mjs open-next.config.ts package-lock.json package.json)
BUILD_ID=$(sha256sum -- "${sources[@]}" | sha256sum | cut -c1-20)
export BUILD_ID

# Built from a copy in a folder of a fixed name: Next.js writes the folder's path into its output.
work=/tmp/nextjs-opennext
rm -rf "$work" && mkdir "$work"
cp -r --parents "${sources[@]}" "$work"
(cd "$work" && npm ci --no-audit --no-fund && npx @opennextjs/aws build)

# Our layout: what browsers load goes to static/, the server becomes one function.
bundle=$work/bundle
function=$bundle/functions/default.func
mkdir -p "$bundle/functions"
cp config.json "$bundle/"
cp -r "$work/.open-next/assets" "$bundle/static"
cp -r "$work/.open-next/server-functions/default" "$function"
rm "$bundle/static/BUILD_ID"

# What this app never loads: data of next/font, the runtime of an experiment, source maps.
rm -f "$function/node_modules/next/dist/server/capsize-font-metrics.json"
rm -f "$function"/node_modules/next/dist/compiled/next-server/*-experimental.runtime.prod.js
find "$bundle" -name "*.map" -delete

# One date for all files, the first one that a zip can hold: equal files give an equal zip.
find "$bundle" -exec touch -h -d "1980-01-01 00:00:00" {} +
rm -f bundle.zip
python3 -m zipfile -c bundle.zip "$bundle"/config.json "$bundle"/static "$bundle"/functions
sha256sum -- "${sources[@]}" bundle.zip > built.sha256
du -h bundle.zip
