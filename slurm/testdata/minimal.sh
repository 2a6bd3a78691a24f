#!/bin/bash
#SBATCH --job-name=jp2a
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --output=/scratch/p/job-%j.log
#SBATCH --open-mode=append
#SBATCH --export=NONE
#SBATCH --no-requeue
#SBATCH --signal=USR1@300

# Written by sealbatch. The same text may be submitted by hand: sbatch THIS-FILE
unset SLURM_EXPORT_ENV # so that srun hands the environment of this script on
umask 077

# What every node runs: copy the programs into a fresh directory of the node's own, check the copies,
# and become the first of them. A directory in which nothing can be run, or that is full, is passed over.
on_each_node='
  umask 077
  tried=()
  words=$1; shift # the first words are the name, SHA-256, size and path of each program
  for base in "$SLURM_TMPDIR" "$TMPDIR" /tmp /dev/shm /var/tmp "/run/user/$(id -u)"; do
    case $base in /*) ;; *) continue ;; esac
    dir=$(mktemp -d "$base/sealbatch.XXXXXXXXXX" 2>/dev/null) || { tried+=("$base: no directory can be made there"); continue; }
    trap "rm -rf -- \"\$dir\"" EXIT
    if ! printf "#!/bin/sh\n" 2>/dev/null >"$dir/try" || ! chmod 700 "$dir/try"; then
      tried+=("$base: no room")
    elif ! "$dir/try" 2>/dev/null; then
      tried+=("$base: programs cannot be run there (noexec)")
    else
      rm -- "$dir/try"
      at=1
      while [ "$at" -lt "$words" ]; do
        name=${!at}; at=$((at + 1)); digest=${!at}; at=$((at + 1))
        size=${!at}; at=$((at + 1)); path=${!at}; at=$((at + 1))
        # Whatever lies there now: a pipe is not waited for, and no more is read than the program has.
        dd if="$path" of="$dir/$name" bs=1M count="$size" iflag=count_bytes,fullblock,nonblock status=none || { at=0; break; }
        if ! echo "$digest  $dir/$name" | sha256sum --check --status --strict; then
          echo "sealbatch: $path is not the program that this job was submitted with" >&2
          exit 243
        fi
        chmod 500 "$dir/$name"
      done
      if [ "$at" -eq 0 ]; then
        tried+=("$base: the programs cannot be copied there")
      else
        program=$1; shift "$words"; command=$1; shift
        trap - EXIT
        exec "$dir/$program" "$command" --self "$dir" "$@"
      fi
    fi
    rm -rf -- "$dir"; trap - EXIT
  done
  printf "sealbatch: %s\n" "no directory of this node can hold and run the programs" "${tried[@]}" \
    "hint: set TMPDIR to a node-local directory with room in which programs can be run, in [supercomputer] setup" >&2
  exit 240
'
programs=(
  sealbatch 0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef 1 /scratch/p/bin/sealbatch
)
arguments=(
  node-run
  --job-dir
  /scratch/p/job
)

trap "signalled=yes" TERM USR1
srun --overlap --export=ALL --kill-on-bad-exit=0 --wait=0 --ntasks-per-node=1 \
  /bin/bash -c "$on_each_node" sealbatch "${#programs[@]}" "${programs[@]}" "${arguments[@]}" &
step=$!
while :; do
  signalled=no
  wait "$step"
  status=$?
  [ "$signalled" = yes ] || break
done
exit "$status"
