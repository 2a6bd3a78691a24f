#!/bin/sh
# Runs after the application and refuses results that hold a verbatim copy of an input file, or that
# are larger than results have any reason to be. It catches accidents: who wants to carry data out
# can change a byte.
# Needs a POSIX shell and coreutils. For a try by hand: 90-results.sh DATASETS RESULTS
set -eu

max_bytes=107374182400       # of all results together
min_copy=32                  # smaller files are not compared: a lone number proves nothing
datasets=${1:-/sd-container/encrypted}
results=${2:-/sd-container/output}

work=$(mktemp -d)            # in the job's encrypted scratch volume
trap 'rm -rf "$work"' EXIT

# files DIRECTORY FUNCTION: calls FUNCTION with the regular files below, many at a time. In a
# subshell, so that its variables are its own.
files() (
    dir=$1 visit=$2
    if ! [ -r "$dir" ] || ! [ -x "$dir" ]; then
        printf '%s: a directory that cannot be read\n' "$dir"
        exit 1
    fi
    set --
    for entry in "$dir"/* "$dir"/.[!.]* "$dir"/..?*; do
        if [ -L "$entry" ]; then
            continue
        elif [ -d "$entry" ]; then
            files "$entry" "$visit" || exit 1
        elif [ -f "$entry" ]; then
            set -- "$@" "$entry"
            if [ $# -ge 500 ]; then
                "$visit" "$@" || exit 1
                set --
            fi
        fi
    done
    [ $# -eq 0 ] || "$visit" "$@" || exit 1
)

# measure FILE...
measure() { stat -c %s -- "$@" >>"$work/sizes"; }

# sum FILE...: sha256sum marks odd names with a backslash before the sum.
sum() { sha256sum -- "$@" >>"$work/sums"; }

# sum_alike FILE...: sums the files that are as large as some result; most never are.
sum_alike() {
    stat -c %s -- "$@" >"$work/batch" || return
    while read -r size; do
        file=$1
        shift
        case $sizes in
            *" $size "*) [ "$size" -lt "$min_copy" ] || sum "$file" || return ;;
        esac
    done <"$work/batch"
}

# digests FILE: the sums alone, sorted.
digests() { tr -d '\134' <"$1" | cut -c 1-64 | sort -u; }

: >"$work/sizes"
files "$results" measure
total=0
while read -r size; do total=$((total + size)); done <"$work/sizes"
if [ "$total" -gt "$max_bytes" ]; then
    printf 'the results have %d bytes, %d are allowed\n' "$total" "$max_bytes"
    exit 1
fi

sizes=" $(sort -un "$work/sizes" | tr '\n' ' ')"
: >"$work/sums"
files "$datasets" sum_alike
digests "$work/sums" >"$work/inputs"
: >"$work/sums"
files "$results" sum
digests "$work/sums" >"$work/outputs"

copies=$(comm -12 "$work/inputs" "$work/outputs")
if [ -n "$copies" ]; then
    printf 'these results are verbatim copies of input files:\n'
    while read -r line; do
        digest=${line#\\}
        case $copies in *"${digest%% *}"*) printf '%s\n' "${line#* }" ;; esac
    done <"$work/sums"
    exit 1
fi
printf 'the results, %d bytes, hold no copy of an input file\n' "$total"
