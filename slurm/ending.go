package slurm

import "strings"

// endings say what Slurm's words for bad ends mean to the job's owner.
var endings = map[State]string{
	NodeFail:        "a node of it failed or was restarted; submit the job again",
	OutOfMemory:     "it needed more memory than it had asked for; ask for more with --mem",
	Timeout:         "it did not end within its time limit; ask for more with --time, or with --seal-time if sealing took too long",
	"BOOT_FAIL":     "its nodes did not boot; submit the job again",
	"LAUNCH_FAILED": "its nodes could not start it; submit the job again",
	"RECONFIG_FAIL": "its nodes could not be set up for it; submit the job again",
	"DEADLINE":      "it could not end before its deadline",
	"PREEMPTED":     "a job of higher priority took its place; submit the job again",
	"REVOKED":       "another cluster of the federation has taken it",
}

// Began reports whether the job has had nodes.
func (s Status) Began() bool { return s.NodeList != "" }

// Refused reports whether the job ended without having begun, and nobody wished that: Slurm took it and found that
// it cannot run.
func (s Status) Refused() bool {
	return s.State.Ended() && !s.Began() && s.State != Completed && s.State != Cancelled && s.State != "REVOKED"
}

// Ending returns how a job ended, in words; "" where its state and exit code say it all.
func (s Status) Ending() string {
	switch {
	case s.State == Cancelled && !s.Began():
		return "it was cancelled before it began: nothing ran"
	case s.State == Cancelled && s.By != "":
		return "it was cancelled by user number " + s.By
	case s.State == Cancelled:
		return "it was cancelled"
	case s.Refused():
		why := "Slurm gives no reason"
		if _, means := s.Waiting(); means != "" {
			why = means
		} else if s.Reason != "" {
			why = "Slurm says " + s.Reason
		}
		return "it could not begin, and nothing ran: " + why
	case endings[s.State] != "":
		return endings[s.State]
	case s.State == Failed && !s.hasSignal() && s.ExitCode <= 0:
		return "Slurm could not run its script on the node; submit the job again"
	}
	return ""
}

// hasSignal reports whether a signal ended the script. slurmctld writes an exit status of 1, which reads as signal 1,
// for jobs that it fails itself, and slurmstepd its own errors as numbers that no signal of a process has (0:53,
// 0:125); where there is a reason, it says RaisedSignal:1(Hangup) for a true one.
func (s Status) hasSignal() bool {
	if s.Signal < 1 || s.Signal > 31 {
		return false
	}
	return s.Signal > 1 || s.Reason == "" || strings.HasPrefix(s.Reason, "RaisedSignal") || s.Reason == "NonZeroExitCode"
}

// ScriptExit returns the exit code with which the job's script ended, 128 and the signal where one ended it. It
// reports false for a job that has not ended, or whose script was not what ended it.
func (s Status) ScriptExit() (int, bool) {
	switch {
	case s.State == Completed:
		return 0, true
	case !s.State.Ended(), !s.Began(), s.State == NodeFail, s.State == "BOOT_FAIL", s.State == "LAUNCH_FAILED":
		return -1, false
	case s.ExitCode > 0:
		return s.ExitCode, true
	case (s.State == Failed || s.State == Cancelled) && s.hasSignal():
		return 128 + s.Signal, true
	}
	return -1, false
}
