package sshconfig

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"
)

// matches reads the conditions of a Match line, each with its patterns, in turn: what comes after one that
// does not hold is read and not asked, so that no command is run for nothing.
func (r *reader) matches(ctx context.Context, line string) (bool, error) {
	holds, conditions := true, 0
	for rest := line; rest != ""; conditions++ {
		var name string
		var err error
		if name, rest, err = cutWord(rest); err != nil {
			return false, err
		}
		if strings.HasPrefix(name, "#") {
			break
		}
		name, negated := strings.CutPrefix(strings.ToLower(name), "!")
		var is bool
		switch name {
		case "all":
			is = true
		case "canonical", "final":
			is = r.final
			r.wantFinal = r.wantFinal || name == "final"
		default:
			var arg string
			if arg, rest, err = cutWord(rest); err != nil || arg == "" || arg[0] == '#' {
				return false, fmt.Errorf("its condition %s lacks what to match", name)
			}
			if is, err = r.condition(ctx, name, arg, holds); err != nil {
				return false, err
			}
		}
		holds = holds && is != negated
	}
	if conditions == 0 {
		return false, errors.New("it has no condition")
	}
	return holds, nil
}

// condition reports whether one condition holds. asked is false where it no longer matters.
func (r *reader) condition(ctx context.Context, name, arg string, asked bool) (bool, error) {
	login := r.v.Get("user")
	if login == "" {
		login = r.me.name
	}
	patterns := strings.Split(arg, ",")
	switch name {
	case "host":
		host, err := r.hostName()
		return MatchList(lower(patterns), strings.ToLower(host)), err
	case "originalhost":
		return MatchList(lower(patterns), strings.ToLower(r.q.Host)), nil
	case "user":
		return MatchList(patterns, login), nil
	case "localuser":
		return MatchList(patterns, r.me.name), nil
	case "tagged":
		return MatchList(patterns, r.v.Get("tag")), nil
	case "exec":
		if !asked {
			return false, nil
		}
		return r.exec(ctx, arg)
	}
	if !asked {
		return false, nil
	}
	return false, fmt.Errorf("the condition %s is not understood without OpenSSH's client; install it (ssh)", name)
}

func lower(s []string) []string {
	out := make([]string, len(s))
	for i := range s {
		out[i] = strings.ToLower(s[i])
	}
	return out
}

// exec runs a command of Match exec, as ssh does: by the user's shell, and its exit code is the answer.
func (r *reader) exec(ctx context.Context, command string) (bool, error) {
	host, err := r.hostName()
	if err != nil {
		return false, err
	}
	command, err = tokens(r.me, r.q, r.v.with("hostname", host)).expand(command, false)
	if err != nil {
		return false, err
	}
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	shell := Shell()
	cmd := exec.CommandContext(ctx, shell, "-c", command)
	cmd.WaitDelay = time.Second
	err = cmd.Run()
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil:
		return false, fmt.Errorf("the command of Match exec gave no answer in %v", askTime)
	case errors.As(err, &exit):
		return false, nil
	case err != nil:
		return false, fmt.Errorf("the command of Match exec: %w", err)
	}
	return true, nil
}

// Shell returns the shell that runs commands of a configuration.
func Shell() string {
	if s := os.Getenv("SHELL"); s != "" {
		return s
	}
	return "/bin/sh"
}

// with returns v with another value.
func (v Values) with(keyword, value string) Values {
	out := Values{}
	for k, all := range v {
		out[k] = all
	}
	out[keyword] = []string{value}
	return out
}
