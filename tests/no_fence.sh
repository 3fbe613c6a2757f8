#!/usr/bin/env bash
# The counter-proof of the pressure test: a copy of this tree whose fence is open -> the same test must report losses.
#
# A test that never finds a loss may be one that cannot. The program itself has no switch for its fence, and must not have
# one, so a copy is patched: its gates say that they are empty while replies are still inside.
set -euo pipefail
cd "$(dirname "$0")/.."
: "${TIERKEEPER_LLAMA_SERVER:?must be the path of a llama-server (tests/run fetches one)}"

copy=target/no-fence
gate=$copy/src/gateway/gate.rs

fail() {
    echo "no_fence: $*" >&2
    exit 1
}

# patch FILE PATTERN REPLACEMENT: exactly one line must match, else the code has moved on and this file must follow.
patch() {
    local count
    count=$(grep -cE "$2" "$1" || true)
    [ "$count" = 1 ] || fail "expected one line like \`$2\` in $1, found $count"
    sed -E -i "s|$2|$3|" "$1"
}

rm -rf "$copy"
mkdir -p "$copy"
# What git knows, as it is now; files that were deleted and not yet committed are left out.
git ls-files -z --cached --others --exclude-standard |
    while IFS= read -r -d '' file; do [ -f "$file" ] && printf '%s\0' "$file"; done |
    tar --create --null --files-from=- --file=- | tar --extract --directory="$copy" --file=-

# Closing a gate that has replies inside reports it as drained at once...
patch "$gate" '^( *word if word & CLOSED == 0 => )Closed::Draining,' '\1[Closed::Draining, Closed::Empty][1],'
# ...whoever asks whether it is drained is told that it is...
patch "$gate" '^( *self\.word\.load\(Ordering::Acquire\)) == CLOSED$' '\1 \& CLOSED != 0'
# ...and the name of the program differs, so that both can share what cargo has built already.
patch "$copy/Cargo.toml" '^default-run = "tierkeeper"$' 'default-run = "tierkeeper-no-fence"'
sed -i '/^\[\[bin\]\]$/,/^$/ s/^name = "tierkeeper"$/name = "tierkeeper-no-fence"/' "$copy/Cargo.toml"
# Without a version of its own cargo would take its library for the tree's, then and for ever after.
patch "$copy/Cargo.toml" '^(version = "[0-9.]+)"$' '\1+no-fence"'
grep -q '^name = "tierkeeper-no-fence"$' "$copy/Cargo.toml" || fail "no [[bin]] of the name tierkeeper in Cargo.toml"

target=$PWD/target
cargo build --quiet --manifest-path "$copy/Cargo.toml" --target-dir "$target" --bin tierkeeper-no-fence

TIERKEEPER_BIN=$target/debug/tierkeeper-no-fence \
    cargo test --quiet --test torture -- --expect-losses --cycles 2 --switches 0 "$@"
