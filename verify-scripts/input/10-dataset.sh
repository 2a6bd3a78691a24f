#!/bin/sh
# Runs before the application and refuses a dataset that it could only fail on: an empty one, files
# of a kind that nobody expects, unreadable or oversized ones, links that lead nowhere or out.
# Needs a POSIX shell and coreutils. For a try by hand: 10-dataset.sh DIRECTORY
set -eu

allowed='*'                  # patterns for file names, separated by blanks: '*.png *.txt SHA256SUMS'
max_bytes=1099511627776      # of one file
datasets=${1:-/sd-container/encrypted}

refuse() {
    printf '%s: %s\n' "$1" "$2"
    exit 1
}

# name_allowed NAME
name_allowed() {
    set -f # the patterns are not for the files of this directory
    for pattern in $allowed; do
        # shellcheck disable=SC2254 # it is a pattern
        case $1 in $pattern) set +f && return ;; esac
    done
    set +f
    return 1
}

# check_sizes FILE...: one stat for many files, since a dataset may hold millions.
check_sizes() {
    sizes=$(stat -c %s -- "$@") || refuse "$(dirname -- "$1")" 'holds a file without a size'
    for size in $sizes; do
        [ "$size" -le "$max_bytes" ] || refuse "$(dirname -- "$1")" "holds a file of $size bytes, $max_bytes are allowed"
    done
}

# check_link LINK ROOT: it must lead to something below ROOT.
check_link() {
    [ -e "$1" ] || refuse "$1" 'a link that leads nowhere'
    case $(readlink -f -- "$1") in
        "$2" | "$2"/*) ;;
        *) refuse "$1" 'a link that leads out of its dataset' ;;
    esac
}

# check_dir DIRECTORY ROOT: in a subshell, so that its variables are its own.
check_dir() (
    dir=$1 root=$2
    if ! [ -r "$dir" ] || ! [ -x "$dir" ]; then refuse "$dir" 'a directory that cannot be read'; fi
    set --
    for entry in "$dir"/* "$dir"/.[!.]* "$dir"/..?*; do
        if [ -L "$entry" ]; then
            check_link "$entry" "$root"
        elif [ -d "$entry" ]; then
            check_dir "$entry" "$root" || exit 1
        elif [ -f "$entry" ]; then
            [ -r "$entry" ] || refuse "$entry" 'a file that cannot be read'
            name_allowed "${entry##*/}" || refuse "$entry" 'a file of a kind that is not expected'
            set -- "$@" "$entry"
            if [ $# -ge 500 ]; then
                check_sizes "$@"
                set --
            fi
        elif [ -e "$entry" ]; then
            refuse "$entry" 'neither a file, nor a directory, nor a link'
        fi
    done
    [ $# -eq 0 ] || check_sizes "$@"
)

# is_empty DIRECTORY
is_empty() {
    for entry in "$1"/* "$1"/.[!.]* "$1"/..?*; do
        if [ -e "$entry" ] || [ -L "$entry" ]; then return 1; fi
    done
}

found=0
for dataset in "$datasets"/*/ "$datasets"/.[!.]*/; do
    [ -d "$dataset" ] || continue
    found=$((found + 1))
    root=$(readlink -f -- "$dataset")
    if is_empty "$root"; then refuse "$root" 'the dataset is empty'; fi
    check_dir "$root" "$root"
done
[ "$found" -gt 0 ] || refuse "$datasets" 'there is no dataset'
printf '%d datasets are as expected\n' "$found"
