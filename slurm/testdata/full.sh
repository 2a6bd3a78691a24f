#!/bin/bash
#SBATCH --job-name="a$(touch x)b \"q\" \\ 'r' #h"
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --nodelist=cn[1-3,07],x2
#SBATCH --partition=standard,debug
#SBATCH --account=project_462000031
#SBATCH --time=00:60:00
#SBATCH --mem=16G
#SBATCH --cpus-per-task=8
#SBATCH --gres=gpu:a100:2,lustre
#SBATCH --gpus=a100:2
#SBATCH --constraint=[rack1|rack2]&ssd*2
#SBATCH --qos=high
#SBATCH --reservation=maint.1
#SBATCH --dependency=afterok:12:13,singleton
#SBATCH --mail-type=END,FAIL
#SBATCH --mail-user=a.b+c@example.org
#SBATCH --exclusive
#SBATCH --contiguous
#SBATCH --exclude=cn9
#SBATCH --comment="it's # not a comment job"
#SBATCH --chdir=/
#SBATCH --output=/dev/null
#SBATCH --export=NONE
#SBATCH --no-requeue
#SBATCH --signal=USR1@300

# Written by sealbatch. The same text may be submitted by hand: sbatch THIS-FILE
unset SLURM_EXPORT_ENV # so that srun hands the environment of this script on
umask 077

# Enters the job's directory by its path, on which others may have exchanged directories. A directory is the job's if
# it is private, my own, and has this job's manifest. Until that is sure, nothing is started that an empty or relative
# entry of a search path could have taken from there: not by another PATH, nor with another library.
in_job_directory() {
  builtin cd -P -- '/scratch/p/100% '\''sure\/job' 2>/dev/null && [ -O . ] || return 1
  local PATH=/usr/bin:/bin
  local -x LD_LIBRARY_PATH="" LD_PRELOAD="" LD_AUDIT=""
  case $(stat -c "%u %a" .) in "$EUID 700" | "$EUID 2700") ;; *) return 1 ;; esac
  [ -f manifest.json ] && [ ! -L manifest.json ] && echo "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef  manifest.json" | sha256sum --check --status --strict
}
if ! in_job_directory || [ -L job.log ] || ! exec >>job.log 2>&1; then exit 239; fi

# sbatch hands on the SLURM_* variables of a job in which it was called, and Slurm sets here only those that this job has:
# what is left of arrays and restarts may be the other job's.
if [ -n "$SLURM_ARRAY_JOB_ID$SLURM_ARRAY_TASK_ID$SLURM_RESTART_COUNT" ] && about=$(scontrol -o show job "$SLURM_JOB_ID"); then
  case " $about " in *" ArrayTaskId="*) ;; *) unset "${!SLURM_ARRAY_@}" ;; esac
  case " $about " in *" Restarts=0 "*) unset SLURM_RESTART_COUNT ;; esac
fi

# The site's own lines, from [supercomputer] setup.
module purge
export SITE="a b"; module load apptainer # this one

set +eu # whatever the site's lines have set: a signal that interrupts a wait is no failure
# What every node runs: copy the programs into a fresh directory of the node's own, check the copies,
# and become the first of them. A directory in which nothing can be run, that is full, or that others
# could exchange, is passed over.
on_each_node='
  umask 077
  in_job_directory || { echo "sealbatch: $SLURMD_NODENAME: $PWD is not the directory of this job" >&2; exit 239; }
  # exchangeable DIR: sets why if others can rename something in DIR or on the way to it (trusted.CheckWay).
  exchangeable() {
    local at=$1 way=() i=0 seen
    while [ -n "$at" ]; do way=("$at" "${way[@]}"); at=${at%/*}; done
    why=
    for seen in $(stat -c %u:%a / "${way[@]}" 2>/dev/null); do
      case $i:${seen%:*} in 0:* | *:0 | *:"$EUID") ;; *) why="it belongs to another user"; break ;; esac
      (( (8#${seen#*:} & 8#22) == 0 || (8#${seen#*:} & 8#1000) )) || { why="others can rename what is in it"; break; }
      i=$((i + 1))
    done
    [ "$i" -gt "${#way[@]}" ] && return 1
    way=(/ "${way[@]}"); why="${way[i]}: ${why:-it cannot be looked at}"
  }
  tried=()
  words=$1; shift # the first words are the name, SHA-256, size and path of each program
  for name in "$SLURM_TMPDIR" "$TMPDIR" /tmp /dev/shm /var/tmp "/run/user/$EUID"; do
    case $name in /*) ;; *) continue ;; esac
    base=$(cd -P -- "$name" 2>/dev/null && pwd -P) || { tried+=("$name: it cannot be entered"); continue; }
    case $base in *[,:\\]*) tried+=("$name: container runtimes do not take its name"); continue ;; esac
    if exchangeable "$base"; then tried+=("$name: $why"); continue; fi
    dir=$(mktemp -d "$base/sealbatch.XXXXXXXXXX" 2>/dev/null) || { tried+=("$name: no directory can be made there"); continue; }
    trap "rm -rf -- \"\$dir\"" EXIT
    if ! printf "#!/bin/sh\n" 2>/dev/null >"$dir/try" || ! chmod 700 "$dir/try"; then
      tried+=("$name: no room")
    elif ! "$dir/try" 2>/dev/null; then
      tried+=("$name: programs cannot be run there (noexec)")
    else
      rm -- "$dir/try"
      at=1
      while [ "$at" -lt "$words" ]; do
        file=${!at}; at=$((at + 1)); digest=${!at}; at=$((at + 1))
        size=${!at}; at=$((at + 1)); path=${!at}; at=$((at + 1))
        # Whatever lies there now: a pipe is not waited for, and no more is read than the program has.
        dd if="./$path" of="$dir/$file" bs=1M count="$size" iflag=count_bytes,fullblock,nonblock status=none || { at=0; break; }
        if ! echo "$digest  $dir/$file" | sha256sum --check --status --strict; then
          echo "sealbatch: $path is not the program that this job was submitted with" >&2
          exit 243
        fi
        chmod 500 "$dir/$file"
      done
      if [ "$at" -eq 0 ]; then
        tried+=("$name: the programs cannot be copied there")
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
  sealbatch 0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef 1 bin/sealbatch
  gocryptfs 0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef 1 'bin/it'\''s here'
)
arguments=(
  node-run
  --job-dir
  '/scratch/$(touch y)/`z`'
  -dash
  ''
  '; rm -rf /'
  ''\'''
)

trap "signalled=yes" TERM USR1

# Secret from here on: what the nodes get on standard input, since it must be in no argument, no
# environment and no file. Only its submitter may read this script.
{ set +axv; trap - DEBUG ERR; } 2>/dev/null
input() {
  builtin printf '%s\n' \
    first \
    'it'\''s second'
}
input |
srun --overlap --export=ALL --kill-on-bad-exit=0 --wait=0 --ntasks-per-node=1 --input=all --cpus-per-task=8 \
  --chdir=/ /bin/bash -c "$(declare -f in_job_directory)$on_each_node" \
  sealbatch "${#programs[@]}" "${programs[@]}" "${arguments[@]}" &
step=$!
while :; do
  signalled=no
  wait "$step"
  status=$?
  [ "$signalled" = no ] || continue
  [ "$status" -gt 128 ] || break
  kill -0 "$step" 2>/dev/null || break
done
exit "$status"
