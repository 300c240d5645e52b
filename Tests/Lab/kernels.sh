# SPDX-License-Identifier: Apache-2.0
# Sourced by the scripts that run something on Debian's kernels: what they need, and which kernels.
# Sets root and lab; kernels are fetched once into $PTRECLAIM_LAB (default ~/.cache/ptreclaim-lab).

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
lab=${PTRECLAIM_LAB:-$HOME/.cache/ptreclaim-lab}

skip() { echo "skipped: $*"; exit 77; }

need_tools() {
    local tool
    for tool in qemu-system-x86_64:qemu-system-x86 busybox:busybox-static cpio:cpio depmod:kmod; do
        command -v "${tool%%:*}" >/dev/null ||
            skip "${tool%%:*} is missing (apt-get install ${tool#*:})"
    done
    [ "$(id -u)" = 0 ] || skip "fetching kernels through apt needs root"
}

# The newest package of a release on offer.
package_of() {
    "$root/Tests/Lab/fetch-kernel" "$lab" 2>/dev/null | awk '{print $1}' |
        grep -E "^linux-image-${1//./\\.}\.[0-9.]+[-+].*cloud-amd64$" | sort -V | tail -n 1
}

# Calls `$1 PACKAGE` for each of the releases that follow, fetched. Returns 1 if any call failed.
for_each_kernel() {
    local run=$1 status=0 release package
    shift
    for release; do
        package=$(package_of "$release" || true)
        if [ -z "$package" ] || ! "$root/Tests/Lab/fetch-kernel" "$lab" "$package" >/dev/null; then
            echo "skipped: no Debian kernel $release to be had here"
            continue
        fi
        "$run" "$package" || status=1
    done
    return $status
}

# Builds products in release mode and makes a bare guest of them: $guest, a directory with the
# programs, their loader and every library that they need. Libraries are named as such.
make_guest() { # PRODUCT...
    local product products=$root/.build/shim/release programs=()
    guest=$(mktemp -d)
    trap 'rm -rf "$guest"' EXIT
    for product; do
        swift build --package-path "$root" --scratch-path "$root/.build/shim" -c release \
            --product "$product" 2>&1 | grep -E "error|Build of" >&2
        if [ -e "$products/lib$product.so" ]; then
            cp "$products/lib$product.so" "$guest/"
        else
            cp "$products/$product" "$guest/"
            programs+=("$products/$product")
        fi
    done
    ldd "${programs[@]}" | grep -oE '/[^ ]+' | grep '\.so' | sort -u |
        xargs -I{} cp -Lu {} "$guest/"
}

# Where the loader finds a library; empty where it does not.
# (Reads to the end: ldconfig would die of SIGPIPE now and then.)
find_library() { ldconfig -p | awk -v name="$1" '$1 == name && !found++ {print $NF}'; }

# Adds a library to the guest, and what it needs.
add_library() { # FILE
    cp -Lu "$1" "$guest/"
    ldd "$1" | grep -oE '/[^ ]+' | grep '\.so' | xargs -I{} cp -Lu {} "$guest/"
}

# Runs go.sh of the guest in a kernel.
play_guest() { # MEMORY PACKAGE
    local files=() file
    for file in "$guest"/*; do files+=(-f "$file"); done
    "$root/Tests/Lab/run-in-kernel" -t 900 -m "$1" "${files[@]}" "$lab" "$2" \
        "$(command -v busybox)" sh go.sh
}
