package noderun

import (
	"errors"
	"fmt"

	"github.com/sealbatch/sealbatch/internal/fsx"
	"github.com/sealbatch/sealbatch/internal/jobdir"
	"github.com/sealbatch/sealbatch/internal/manifest"
	"github.com/sealbatch/sealbatch/internal/sandbox"
	"github.com/sealbatch/sealbatch/slurm"
	"github.com/sealbatch/sealbatch/volume"
)

// Exit codes of the supervisor's own; ExitManifest and ExitIntegrity are also
// those of the job script, before there is a supervisor, and ExitDirectory is only its. Every other code is the
// application's, 128 + signal where a signal ended it. An application that failed
// by itself keeps its code, whatever fails after it; the receipt has both. One
// whose mount failed did not fail by itself.
const (
	ExitDirectory   = slurm.ExitNotOurs // 239: not the job's directory, or it could not be written to
	ExitManifest    = 240               // manifest, binaries or surroundings are not as they must be
	ExitAttestation = 241               // the evidence was refused
	ExitKey         = 242               // the policy refused a key, or the key service could not be reached
	ExitIntegrity   = 243               // a program, volume or script is not the one that the manifest pins
	ExitMount       = 244               // mounting failed, a mount died, or the runtime did not start
	ExitInput       = 245               // an input check or input verification script failed
	ExitOutput      = 246               // an output verification script failed; the results are sealed all the same
	ExitSeal        = 247               // neither a sealed volume nor a whole index vouches for the results
	ExitTimeLimit   = 248               // stopped before the time limit so that the results could be sealed
	ExitCancelled   = 249               // cancelled
)

// ExitMeaning is one line of the table of exit codes.
type ExitMeaning struct {
	Code    int
	Reason  string // as Receipt.Reason has it
	Meaning string
}

// ExitMeanings returns the table for documents and messages.
func ExitMeanings() []ExitMeaning {
	return []ExitMeaning{
		{ExitDirectory, jobdir.ReasonDirectory, "another directory lay in the place of the job's, or no log could be written there: " +
			"nothing ran, and if that was so when the job began, there is no log"},
		{ExitManifest, jobdir.ReasonManifest, "the job manifest, the binaries or the node are not as they must be"},
		{ExitAttestation, jobdir.ReasonAttestation, "the key service refused the node's evidence"},
		{ExitKey, jobdir.ReasonKeys, "a policy refused a key, or the key service or the cluster's verifier could not be reached"},
		{ExitIntegrity, jobdir.ReasonIntegrity,
			"a program, volume or script is not the one that the manifest pins, or was altered while the job ran"},
		{ExitMount, jobdir.ReasonMounts,
			"mounting failed, a mount died, the storage below it could not be read, or the container runtime did not start"},
		{ExitInput, jobdir.ReasonInputCheck, "an input check or input verification script failed"},
		{ExitOutput, jobdir.ReasonOutputScript, "an output verification script failed; the results are sealed all the same"},
		{ExitSeal, jobdir.ReasonSealing, "the results could be neither sealed nor indexed, or not all of them: " +
			"what there is, stays as a cipher directory, and sealbatch results names what is missing"},
		{ExitTimeLimit, jobdir.ReasonTimeLimit, "stopped before the time limit so that the results could be sealed"},
		{ExitCancelled, jobdir.ReasonCancelled, "cancelled"},
	}
}

// Failures of fetching keys, for KeySources to wrap.
var (
	// ErrAttestation: the evidence does not hold. Trying again does not help.
	ErrAttestation = errors.New("attestation refused")
	// ErrKeyRefused: the evidence holds, a policy says no.
	ErrKeyRefused = errors.New("key refused")
	// ErrUnreachable: the key service or the cluster's verifier did not answer.
	ErrUnreachable = errors.New("no keys yet")
)

// failure is an error with the exit code that it leads to.
type failure struct {
	code int
	err  error
}

func (f *failure) Error() string { return f.err.Error() }
func (f *failure) Unwrap() error { return f.err }

// failed returns err with an exit code, unless it has one already.
func failed(code int, err error) error {
	var f *failure
	if err == nil || errors.As(err, &f) {
		return err
	}
	return &failure{code, err}
}

// exitOf returns the exit code of an error, fallback where nothing else is known.
func exitOf(err error, fallback int) int {
	var f *failure
	if errors.As(err, &f) {
		return f.code
	}
	for _, m := range []struct {
		err  error
		code int
	}{
		{errTimeLimit, ExitTimeLimit},
		{errCancelled, ExitCancelled},
		{ErrAttestation, ExitAttestation},
		{ErrKeyRefused, ExitKey},
		{ErrUnreachable, ExitKey},
		{volume.ErrIntegrity, ExitIntegrity},
		{jobdir.ErrManifest, ExitIntegrity},
		{sandbox.ErrNoNamespace, ExitMount},
		{sandbox.ErrClosed, ExitMount},
		{manifest.ErrInvalid, ExitManifest},
		{fsx.ErrNotRegular, ExitManifest},
		{fsx.ErrTooLarge, ExitManifest},
	} {
		if errors.Is(err, m.err) {
			return m.code
		}
	}
	return fallback
}

// reasonOf returns the word that a receipt has for an exit code.
func reasonOf(code int) string {
	for _, m := range ExitMeanings() {
		if m.Code == code {
			return m.Reason
		}
	}
	return fmt.Sprintf("exit code %d", code)
}

// exitCode returns the exit code of a supervisor whose application ended with
// app, or neverRan, and whose run ended with err.
func exitCode(app int, err error) int {
	if err == nil {
		return app
	}
	code := exitOf(err, ExitManifest)
	// An application that failed by itself keeps its code.
	own := errors.Is(err, errMountDied) || errors.Is(err, errLostInput) || code == ExitTimeLimit || code == ExitCancelled
	if app > 0 && !own {
		return app
	}
	return code
}
