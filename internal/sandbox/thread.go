package sandbox

import "runtime"

// thread runs functions on one OS thread that lives until close. A process
// started with Pdeathsig gets that signal when the *thread* that forked it ends,
// and Go ends idle threads as it likes.
type thread chan func()

func newThread() thread {
	t := make(thread)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		for f := range t {
			f()
		}
	}()
	return t
}

// do runs f on the thread and returns its result.
func (t thread) do(f func() error) error {
	result := make(chan error, 1)
	t <- func() { result <- f() }
	return <-result
}

func (t thread) close() { close(t) }
