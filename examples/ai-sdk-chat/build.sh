#!/usr/bin/env bash
# Bundles src/ into functions/chat.func/index.cjs and static/chat.js. Needs Node.js 22 with npm.
set -euo pipefail
cd "$(dirname "$0")"
export LC_ALL=C

npm ci --no-audit --no-fund
node build.mjs

# Which sources these files were made of, and the files themselves.
mapfile -t files < <(find src functions static -type f | sort)
sha256sum -- "${files[@]}" build.mjs build.sh config.json package-lock.json package.json > built.sha256
du -h functions/chat.func/index.cjs static/chat.js
