package slurm

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/sealbatch/sealbatch/internal/shellwords"
)

// ExitNotOurs is the exit code of a script, or of its part on a node, that does not find the job's
// directory where it was: it has no log then, and nothing ran.
const ExitNotOurs = 239

// Render writes the batch script. Everything that came from a user is checked first and quoted where
// it stands; the #SBATCH lines are then read back by Slurm's rules and compared with the Script.
// Errors wrap ErrScript.
func (s *Script) Render() ([]byte, error) {
	if err := s.check(); err != nil {
		return nil, err
	}
	var b strings.Builder
	b.WriteString("#!/bin/bash\n")
	options := s.options()
	for _, o := range options {
		b.WriteString(renderDirective(o) + "\n")
	}
	b.WriteString(s.fill(preamble))
	for i, line := range s.Setup {
		if i == 0 {
			b.WriteString("\n# The site's own lines, from [supercomputer] setup.\n")
		}
		b.WriteString(line + "\n")
	}
	b.WriteString(s.fill(nodePart))
	b.WriteString(s.command())
	b.WriteString(ending)
	text := b.String()
	back, err := ParseDirectives(text)
	if err != nil {
		return nil, err
	}
	if !slices.Equal(back, options) {
		return nil, fmt.Errorf("%w: its options read back as %q instead of %q", ErrScript, back, options)
	}
	return []byte(text), nil
}

// fill puts the job's directory and the names in it into a part of the script. The names need no quotes (fileShape).
func (s *Script) fill(part string) string {
	return strings.NewReplacer("@dir@", shellwords.QuoteArgs(s.Dir), "@manifest@", s.Pin.Name, "@digest@", s.Pin.SHA256, "@log@", s.Log,
		"@not-ours@", strconv.Itoa(ExitNotOurs)).Replace(part)
}

// command returns the arguments of the node part and the srun command that starts it everywhere.
func (s *Script) command() string {
	var b strings.Builder
	b.WriteString("programs=(\n")
	for _, p := range s.Node.Binaries {
		b.WriteString("  " + shellwords.QuoteArgs(p.Name, p.SHA256, strconv.FormatInt(p.Size, 10), p.Path) + "\n")
	}
	b.WriteString(")\narguments=(\n  " + shellwords.QuoteArgs(s.Node.Command) + "\n")
	for _, a := range s.Node.Args {
		b.WriteString("  " + shellwords.QuoteArgs(a) + "\n")
	}
	b.WriteString(")\n\ntrap \"signalled=yes\" TERM USR1\n")
	input := "none"
	if s.Input != "" {
		b.WriteString(inputPart + leftOut + shellwords.QuoteArgs(s.Input) + " >&2; exit 240\n")
		input = "all"
	}
	// Each node works for itself: one that fails does not end the others, whatever the site's default.
	b.WriteString("srun --overlap --export=ALL --kill-on-bad-exit=0 --wait=0 --ntasks-per-node=1 --input=" + input + " ")
	if s.CPUsPerTask > 0 { // srun does not take it over from sbatch since Slurm 22.05
		fmt.Fprintf(&b, "--cpus-per-task=%d ", s.CPUsPerTask)
	}
	b.WriteString("\\\n  --chdir=/ /bin/bash -c \"$(declare -f in_job_directory)$on_each_node\" \\\n" +
		"  sealbatch \"${#programs[@]}\" \"${programs[@]}\" \"${arguments[@]}\" &\n")
	return b.String()
}

// preamble ends where there is a log. Everything below the job's directory is reached from there: the
// working directory stays the directory that it is, whatever others rename on the way to it.
const preamble = `
# Written by sealbatch. The same text may be submitted by hand: sbatch THIS-FILE
unset SLURM_EXPORT_ENV # so that srun hands the environment of this script on
umask 077

# Enters the job's directory by its path, on which others may have exchanged directories. A directory is the job's if
# it is private, my own, and has this job's manifest. Until that is sure, nothing is started that an empty or relative
# entry of a search path could have taken from there: not by another PATH, nor with another library.
in_job_directory() {
  builtin cd -P -- @dir@ 2>/dev/null && [ -O . ] || return 1
  local PATH=/usr/bin:/bin
  local -x LD_LIBRARY_PATH="" LD_PRELOAD="" LD_AUDIT=""
  case $(stat -c "%u %a" .) in "$EUID 700" | "$EUID 2700") ;; *) return 1 ;; esac
  [ -f @manifest@ ] && [ ! -L @manifest@ ] && echo "@digest@  @manifest@" | sha256sum --check --status --strict
}
if ! in_job_directory || [ -L @log@ ] || ! exec >>@log@ 2>&1; then exit @not-ours@; fi

# sbatch hands on the SLURM_* variables of a job in which it was called, and Slurm sets here only those that this job has:
# what is left of arrays and restarts may be the other job's.
if [ -n "$SLURM_ARRAY_JOB_ID$SLURM_ARRAY_TASK_ID$SLURM_RESTART_COUNT" ] && about=$(scontrol -o show job "$SLURM_JOB_ID"); then
  case " $about " in *" ArrayTaskId="*) ;; *) unset "${!SLURM_ARRAY_@}" ;; esac
  case " $about " in *" Restarts=0 "*) unset SLURM_RESTART_COUNT ;; esac
fi
`

// nodePart is the text that bash runs on each node. It holds no single quote, so that it stands in
// the script as it is. Its arguments: the number of words about programs; for each program its name,
// SHA-256, size and path; then what the first program gets. It does not touch standard input.
const nodePart = `
set +eu # whatever the site's lines have set: a signal that interrupts a wait is no failure
# What every node runs: copy the programs into a fresh directory of the node's own, check the copies,
# and become the first of them. A directory in which nothing can be run, that is full, or that others
# could exchange, is passed over.
on_each_node='
  umask 077
  in_job_directory || { echo "sealbatch: $SLURMD_NODENAME: $PWD is not the directory of this job" >&2; exit @not-ours@; }
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
`

// ending waits for srun. It never signals it: srun would have all tasks killed at once. The trap is
// remembered, since a wait that a signal interrupts gives the signal's number and not srun's status. Of two signals at once,
// bash runs the second's trap before the wait that it interrupts, now and then: so srun is looked for, too.
const ending = `step=$!
while :; do
  signalled=no
  wait "$step"
  status=$?
  [ "$signalled" = no ] || continue
  [ "$status" -gt 128 ] || break
  kill -0 "$step" 2>/dev/null || break
done
exit "$status"
`
